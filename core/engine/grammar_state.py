"""The state of a request in its grammar."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from maxserve.core.interfaces.errors import cause

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.interfaces.grammar import Matcher


log = logging.getLogger("maxserve.engine")

WORD = 32  # bits


def _forbid(bits: NDArray[np.uint32], tokens: SequenceOf[int]) -> None:
    for token in tokens:
        bits[token // WORD] &= np.uint32(~(1 << (token % WORD)) & 0xFFFFFFFF)


def _only_token(row: NDArray[np.int32]) -> int | None:
    """The token that is allowed, if no other one is."""
    words = np.flatnonzero(row)
    if len(words) != 1:
        return None
    word = int(row.view(np.uint32)[words[0]])
    return int(words[0]) * WORD + word.bit_length() - 1 if word & (word - 1) == 0 else None


class GrammarState:
    """Follows the text of one request. `fault` says why it cannot any more; the request ends then.

    `follow` goes on by drafts, which `rewind` takes back. What may come next is asked of the matcher once, behind the
    text and behind each draft, once drafts are looked at: when they are proposed, and when they are verified.
    """

    __slots__ = ("_drafted", "_ends", "_followed", "_keeps_on", "_matcher", "_path", "_rows", "fault", "words")

    def __init__(self, matcher: Matcher, ends: tuple[int, ...], words: int, *, keeps_on: bool) -> None:
        self._matcher = matcher
        self.words = words  # of 32 bits, in a row of its mask
        self._ends = ends  # eos ids
        self._keeps_on = keeps_on  # the request ignores eos: it ends where the grammar does
        self.fault: str | None = None
        self._followed = 0  # drafts that the matcher has accepted
        self._drafted = False  # drafts were looked at, so what is asked will be asked again
        self._path: list[int] = []  # drafts that it accepted since the last token, and maybe took back
        self._rows: dict[int, NDArray[np.int32]] = {}  # what may come next, behind so many of these

    def fill(self, row: NDArray[np.int32]) -> None:
        """Writes the bits of what may come next; none at all when the matcher fails."""
        known = self._rows.get(self._followed)
        if known is not None:
            row[:] = known
            return
        self._ask(row)
        if self._drafted:
            self._rows[self._followed] = row.copy()

    def _ask(self, row: NDArray[np.int32]) -> None:
        try:
            self._matcher.fill(row)
        except Exception as error:
            self._fail(error)
            row[:] = 0
            return
        if self._keeps_on:
            self._without_ends(row)

    def _without_ends(self, row: NDArray[np.int32]) -> None:
        """Takes eos away unless it is all there is."""
        kept = row.copy()
        _forbid(kept.view(np.uint32), self._ends)
        if kept.any():
            row[:] = kept

    def allows(self, tokens: SequenceOf[int]) -> int:
        """How many of `tokens`, in their order, the text may go on with: up to the first that ends it, at most."""
        self._drafted = True
        row: NDArray[np.int32] = np.zeros(self.words, dtype=np.int32)
        allowed = 0
        for token in tokens:
            self.fill(row)
            if not row.view(np.uint32)[token // WORD] >> np.uint32(token % WORD) & 1:
                break
            allowed += 1
            if not self.follow(token):
                break
        self.rewind()
        return allowed

    def forced(self, most: int) -> list[int]:
        """Up to `most` tokens that the text must go on with, as nothing else is allowed."""
        self._drafted = True
        row: NDArray[np.int32] = np.zeros(self.words, dtype=np.int32)
        found: list[int] = []
        goes_on = True
        while goes_on and len(found) < most:
            self.fill(row)
            token = _only_token(row)
            if token is None or self.fault is not None:
                break
            found.append(token)
            goes_on = len(found) < most and self.follow(token)
        self.rewind()
        return found

    def follow(self, token: int) -> bool:
        """The text goes on with a draft that is allowed; whether anything may follow it."""
        if token in self._ends:
            return False
        if token not in self._path[self._followed : self._followed + 1]:
            del self._path[self._followed :]
            self._path.append(token)
            self._rows = {at: row for at, row in self._rows.items() if at <= self._followed}
        whole = self._accept(token)
        self._followed += self.fault is None
        return not whole and self.fault is None

    def rewind(self) -> None:
        """Takes back what was followed."""
        followed, self._followed = self._followed, 0
        if followed and self.fault is None:
            try:
                self._matcher.rollback(followed)
            except Exception as error:
                self._fail(error)

    def take(self, token: int) -> bool:
        """The text goes on with `token`, which is no eos; whether it is whole now. A failure is kept in `fault`."""
        if self._rows:
            self._rows.clear()
            self._path.clear()
        return self._accept(token)

    def _accept(self, token: int) -> bool:
        try:
            self._matcher.accept(token)
            return self._matcher.finished()
        except Exception as error:
            self._fail(error)
            return False

    def _fail(self, error: Exception) -> None:
        log.error("a grammar's matcher failed; its request ends", exc_info=error)
        self.fault = f"the grammar could not be followed any further: {cause(error)}"
