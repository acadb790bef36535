"""What drafters without weights remember of running sequences: their tokens, and where runs of them are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.speculator import DraftSequence, DraftStep

INDEXED = 1 << 14  # tokens at the end of a prompt that are looked up in
REMEMBERED = 1 << 19  # tokens of all sequences, some 120 bytes each; a sequence that was forgotten is read again
SHARE = 512  # tokens at the end of a sequence that are remembered where all are more, and twice as many later on
RECENT = 8  # steps within which no sequence is forgotten for others: it would be read again in each of them
UNREAD = 512  # steps without a sequence after which it is forgotten: preempted, or dropped by its client
WIDTH = 4  # bytes of a token


class History:
    """The tokens of a sequence, and where each run of `shortest` tokens is among them."""

    def __init__(self, shortest: int) -> None:
        self.shortest = shortest
        self._skipped = 0  # tokens before those that are indexed
        self.data = bytearray()  # the tokens, 4 bytes each
        self._places: dict[bytes, list[int]] = {}  # a run: the tokens up to the end of it, for each time it was there

    @property
    def length(self) -> int:
        """Tokens of the sequence that were read."""
        return self._skipped + len(self.data) // WIDTH

    @property
    def indexed(self) -> int:
        """Tokens that are kept."""
        return len(self.data) // WIDTH

    def read(self, tokens: NDArray[np.int64], most: int = INDEXED) -> None:
        """Reads on in a sequence, which begins as it did before; at first no more than `most` tokens at its end."""
        if not self.data and len(tokens) > most:
            self._skipped = len(tokens) - most
        known = len(self.data) // WIDTH
        self.data += tokens[self.length :].astype(np.int32).tobytes()
        data, places, width = self.data, self._places, self.shortest * WIDTH
        for end in range(max(known, self.shortest), len(data) // WIDTH):
            stop = end * WIDTH  # a run is entered when a token follows it, so that it does not find itself
            places.setdefault(bytes(data[stop - width : stop]), []).append(end)

    def places(self, most: int) -> list[int]:
        """Where the last run was before, the latest last: how many tokens there are up to the end of it."""
        return self._places.get(bytes(self.data[-self.shortest * WIDTH :]), [])[-most:]


H = TypeVar("H", bound=History)


class Histories(Generic[H]):
    """The histories of running sequences, each made by `make`: no more tokens than `REMEMBERED` in all.

    Where those that are read step by step are more, the ones that come last, or grow, have the last tokens only.
    """

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._known: dict[str, tuple[H, int]] = {}  # with the step of its last reading; those read last are the last
        self._steps = 0
        self.remembered = 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def begin(self, step: DraftStep) -> None:
        """Forgets sequences that are over, and those that are not read any more."""
        self._steps += 1
        for i in np.flatnonzero(step.kept == 0).tolist():
            self._forget(step.sequences[i].id)
        while self._known and next(iter(self._known.values()))[1] < self._steps - UNREAD:
            self._forget(next(iter(self._known)))

    def read(self, sequence: DraftSequence) -> H:
        """The history of a sequence, with all of its tokens."""
        tokens, (history, _) = sequence.tokens, self._known.pop(sequence.id, (None, 0))
        self.remembered -= history.indexed if history is not None else 0
        if history is not None and history.length >= len(tokens):  # another request of that name
            history = None
        room = self._room(min(len(tokens), INDEXED) if history is None else history.indexed)
        if history is None:
            history = self._make()
            history.read(tokens, max(min(room, INDEXED), SHARE))
        elif history.indexed > max(room, 2 * SHARE):  # of what grew beyond the room the end stays
            history = self._make()
            history.read(tokens, SHARE)
        else:
            history.read(tokens)
        self._known[sequence.id] = history, self._steps
        self.remembered += history.indexed
        return history

    def _room(self, wanted: int) -> int:
        """Tokens that may be remembered of one more sequence, once idle ones gave way to those that are `wanted`."""
        while self._known and self.remembered + wanted > REMEMBERED:
            oldest = next(iter(self._known))
            if self._known[oldest][1] >= self._steps - RECENT:
                break
            self._forget(oldest)
        return REMEMBERED - self.remembered

    def _forget(self, id: str) -> None:
        history, _ = self._known.pop(id, (None, 0))
        if history is not None:
            self.remembered -= history.indexed
