"""Prompt lookup: the text goes on as it did when its last tokens were there before (method `ngram`).

The longest run of last tokens, of `--ngram.prompt-lookup-max` down to `--ngram.prompt-lookup-min`, that the prompt or
the text had before is looked for, the latest place first, and what followed there is proposed (Saxena, "Prompt Lookup
Decoding", 2023). Answers that repeat their prompts gain: summaries, edits, code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from maxserve.plugins.speculation.options import NgramSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftSequence, DraftStep, SpeculatorContext

INDEXED = 1 << 14  # tokens at the end of a prompt that are looked up in
TRIED = 16  # places that are compared
REMEMBERED = 1 << 19  # tokens of all sequences, some 120 bytes each; a sequence that was forgotten is read again
_WIDTH = 4  # bytes of a token


class History:
    """The tokens of a sequence, and where each run of `shortest` tokens is among them."""

    def __init__(self, longest: int, shortest: int) -> None:
        self._sizes = range(longest, shortest - 1, -1)
        self._shortest = shortest
        self._skipped = 0  # tokens before those that are indexed
        self._data = bytearray()  # the tokens, 4 bytes each
        self._places: dict[bytes, list[int]] = {}  # a run: the tokens up to the end of it, for each time it was there

    @property
    def length(self) -> int:
        """Tokens of the sequence that were read."""
        return self._skipped + len(self._data) // _WIDTH

    @property
    def indexed(self) -> int:
        """Tokens that are kept."""
        return len(self._data) // _WIDTH

    def read(self, tokens: NDArray[np.int64]) -> None:
        """Reads on in a sequence, which begins as it did before."""
        if not self._data and len(tokens) > INDEXED:
            self._skipped = len(tokens) - INDEXED
        known = len(self._data) // _WIDTH
        self._data += tokens[self.length :].astype(np.int32).tobytes()
        data, places, width = self._data, self._places, self._shortest * _WIDTH
        for end in range(max(known, self._shortest), len(data) // _WIDTH):
            stop = end * _WIDTH  # a run is entered when a token follows it, so that it does not find itself
            places.setdefault(bytes(data[stop - width : stop]), []).append(end)

    def continuation(self, most: int) -> list[int]:
        """Up to `most` tokens that followed the last ones; none where they were not there before."""
        data = self._data
        places = self._places.get(bytes(data[-self._shortest * _WIDTH :]), [])[-TRIED:]
        for size in self._sizes if places else ():
            last = data[-size * _WIDTH :]
            for place in reversed(places):
                if len(last) <= place * _WIDTH and data.endswith(last, 0, place * _WIDTH):
                    return self._from(place, most)
        return []

    def _from(self, place: int, most: int) -> list[int]:
        """`most` tokens from there on; where the text ends they go on with themselves, as a loop does."""
        found = np.frombuffer(self._data, dtype=np.int32, offset=place * _WIDTH)[:most].tolist()
        return [found[i % len(found)] for i in range(most)]


class NgramDrafter:
    """A Drafter."""

    def __init__(self, context: SpeculatorContext) -> None:
        settings = context.config(NgramSettings)
        self._sizes = settings.prompt_lookup_max, settings.prompt_lookup_min
        self._histories: dict[str, History] = {}  # those that were read last are the last ones
        self._remembered = 0

    def propose(self, step: DraftStep) -> list[list[int]]:
        for i in np.flatnonzero(step.kept == 0).tolist():
            self._forget(step.sequences[i].id)
        if not step.wanted.any():
            return [[] for _ in step.sequences]
        pairs = zip(step.sequences, step.wanted.tolist(), strict=True)
        return [self._drafts(sequence, wanted) if wanted else [] for sequence, wanted in pairs]

    def _drafts(self, sequence: DraftSequence, wanted: int) -> list[int]:
        tokens, history = sequence.tokens, self._histories.pop(sequence.id, None)
        if history is not None and history.length >= len(tokens):  # another request of that name
            self._remembered -= history.indexed
            history = None
        history = history or History(*self._sizes)
        before = history.indexed
        history.read(tokens)
        self._histories[sequence.id] = history
        self._remembered += history.indexed - before
        while self._remembered > REMEMBERED and len(self._histories) > 1:
            self._forget(next(iter(self._histories)))
        return history.continuation(wanted)

    def _forget(self, id: str) -> None:
        history = self._histories.pop(id, None)
        if history is not None:
            self._remembered -= history.indexed
