"""The drawing of drafts, by a drafter's logits, as the tokens of their requests are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from maxserve.core.engine.sequence import DrawnFrom

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    import numpy as np
    from numpy.typing import NDArray

    from maxserve.core.engine.draw import Pipeline
    from maxserve.core.engine.grammar_state import GrammarState
    from maxserve.core.engine.sequence import Sequence


class DraftDraw:
    """Draws the drafts of a step, one after another for each sequence, up to `most` [B] of them.

    They lie behind the tokens of their sequences meanwhile, where samplers find them, and grammars follow them.
    """

    def __init__(
        self, pipeline: Pipeline, sequences: SequenceOf[Sequence], most: NDArray[np.int64], vocab_size: int
    ) -> None:
        self._pipeline = pipeline
        self._sequences = sequences
        self._most = most.copy()
        self._vocab_size = vocab_size
        self._probs: dict[int, list[DrawnFrom | None]] = {}  # by slot, of each draft that was drawn
        self._table: torch.Tensor | None = None  # [drafts, vocab] of all of them, made when one is drawn
        self._used = 0  # rows of it
        self._over: set[int] = set()  # slots of those that nothing may follow

    def __call__(self, who: NDArray[np.int64], logits: torch.Tensor) -> torch.Tensor:
        """The next draft [n] of each of the sequences `who` [n], by logits [n, ids], which may be written to."""
        sequences = [self._sequences[i] for i in who.tolist()]
        for sequence, most in zip(sequences, self._most[who].tolist(), strict=True):
            if len(sequence.drafts) >= most:
                raise ValueError(f"the drafter drew more than {most} drafts of a sequence, which were wanted")
        found = self._pipeline.draw_drafts(
            self._of_vocabulary(logits), sequences, self._grammars(sequences), self._rows_of_table
        )
        tokens, known = found.read()
        for row, (sequence, token) in enumerate(zip(sequences, tokens, strict=True)):
            self._note(sequence, token, known.get(row))
        return found.tokens.clamp(min=0)

    def _rows_of_table(self, logits: torch.Tensor) -> tuple[torch.Tensor, int]:
        """The table of all distributions, and from which of its rows on there is room for those of the logits."""
        if self._table is None:
            self._table = logits.new_empty((int(self._most.sum()), self._vocab_size))
        start, self._used = self._used, self._used + len(logits)
        return self._table, start

    def probs(self, sequence: Sequence, drafts: SequenceOf[int]) -> list[DrawnFrom | None]:
        """What each of the drafts that are proposed was drawn from, up to the first that was not drawn here."""
        known = self._probs.get(sequence.slot)
        if known is None:
            return []
        pairs = enumerate(zip(drafts, sequence.drafts, strict=False))
        differing = next((i for i, (mine, drawn) in pairs if mine != drawn), len(drafts))
        return known[:differing]

    def close(self) -> None:
        """Takes grammars back to where their texts are."""
        for sequence in self._sequences:
            if sequence.slot in self._probs and sequence.grammar is not None:
                sequence.grammar.rewind()

    def _of_vocabulary(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of the target's tokens; those that the drafter does not know are never drawn."""
        known = logits.shape[-1]
        if known >= self._vocab_size:
            return logits[:, : self._vocab_size]
        padded = logits.new_full((len(logits), self._vocab_size), -torch.inf)
        padded[:, :known] = logits
        return padded

    def _grammars(self, sequences: SequenceOf[Sequence]) -> dict[int, GrammarState]:
        """Those that still have a say, by row."""
        pairs = ((row, s.grammar) for row, s in enumerate(sequences) if s.slot not in self._over)
        return {row: grammar for row, grammar in pairs if grammar is not None}

    def _note(self, sequence: Sequence, token: int, probs: DrawnFrom | None) -> None:
        self._probs.setdefault(sequence.slot, []).append(probs)
        sequence.draft([*sequence.drafts, max(token, 0)])
        grammar = sequence.grammar
        if grammar is not None and sequence.slot not in self._over and (token < 0 or not grammar.follow(token)):
            self._over.add(sequence.slot)
