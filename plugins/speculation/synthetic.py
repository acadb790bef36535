"""Drafts that are right as often as is wished, for benchmarks (method `synthetic`).

The first answer to a prompt has no drafts and is remembered. When the prompt comes again, its drafts are the tokens of
that answer, each of them right with a probability of `--synthetic.acceptance` and wrong otherwise. What drafts cost and
gain is thus measured without a drafter: verification is real, and texts are those that the model gives. Answers that
come out otherwise each time, as those drawn without a seed do, have fewer drafts that stand.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from maxserve.plugins.speculation.options import SyntheticSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftSequence, DraftStep, SpeculatorContext

    Key = tuple[str, bytes]

REMEMBERED = 1 << 22  # tokens of all answers
RUNNING = 4096  # sequences whose drafts are looked up once


class SyntheticDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        self._acceptance = context.config(SyntheticSettings).acceptance
        self._vocab_size = context.vocab_size
        self._random = np.random.default_rng(0)
        self._drafts: OrderedDict[Key, NDArray[np.int64]] = OrderedDict()  # of each prompt; the last used are last
        self._tokens = 0
        self._running: OrderedDict[str, NDArray[np.int64]] = OrderedDict()  # the drafts of sequences

    def propose(self, step: DraftStep) -> list[list[int]]:
        for i in np.flatnonzero(step.kept == 0).tolist():
            self._remember(step.sequences[i])
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self._proposed(sequence, wanted) if wanted else [] for sequence, wanted in pairs]

    def _proposed(self, sequence: DraftSequence, wanted: int) -> list[int]:
        drafts = self._running.get(sequence.id)
        if drafts is None:
            drafts = self._running[sequence.id] = self._drafts.get(_key(sequence), np.empty(0, dtype=np.int64))
            if len(self._running) > RUNNING:
                self._running.popitem(last=False)
        at = len(sequence.tokens) - sequence.prompt_length
        found: list[int] = drafts[at : at + wanted].tolist()
        return found

    def _remember(self, sequence: DraftSequence) -> None:
        """Keeps the drafts of an answer that is over, where it is longer than the one before."""
        self._running.pop(sequence.id, None)
        key, answer = _key(sequence), sequence.tokens[sequence.prompt_length :]
        known = self._drafts.pop(key, np.empty(0, dtype=np.int64))
        kept = known if len(known) >= len(answer) else self._drafts_of(answer)
        self._drafts[key] = kept
        self._tokens += len(kept) - len(known)
        while self._tokens > REMEMBERED and len(self._drafts) > 1:
            self._tokens -= len(self._drafts.popitem(last=False)[1])

    def _drafts_of(self, answer: NDArray[np.int64]) -> NDArray[np.int64]:
        right = self._random.random(len(answer)) < self._acceptance
        return np.where(right, answer, (answer + 1) % self._vocab_size)


def _key(sequence: DraftSequence) -> Key:
    return sequence.salt, sequence.tokens[: sequence.prompt_length].tobytes()
