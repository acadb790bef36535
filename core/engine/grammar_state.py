"""A request's place in its grammar."""

from __future__ import annotations

import logging
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from collections.abc import Sequence as SequenceOf

    from numpy.typing import NDArray

    from maxserve.core.interfaces.grammar import Matcher
    from maxserve.core.interfaces.request import ThoughtTokens


log = logging.getLogger("maxserve.engine")

WORD = 32  # bits


class _Thinking:
    """Follows the thoughts before a constrained text."""

    __slots__ = ("_forbidden", "_closed", "_forced", "_thoughts", "may_skip", "over")

    def __init__(self, thoughts: ThoughtTokens, ends: tuple[int, ...]) -> None:
        self._thoughts = thoughts
        self._forbidden = (*ends, *thoughts.forbidden)
        self._forced = list(thoughts.opening)  # what must come next
        self._closed = False
        self.may_skip = bool(thoughts.opening) and not thoughts.needed
        self.over = False

    def copy(self) -> _Thinking:
        """A second one at the same place, which goes on by itself."""
        made = copy(self)
        made._forced = list(self._forced)
        return made

    def fill(self, row: NDArray[np.int32]) -> None:
        """Adds what may come next to a row of bits."""
        bits = row.view(np.uint32)
        if self._forced:
            bits[self._forced[0] // WORD] |= np.uint32(1 << (self._forced[0] % WORD))
            return
        bits[:] = 0xFFFFFFFF
        for token in self._forbidden:
            bits[token // WORD] &= np.uint32(~(1 << (token % WORD)) & 0xFFFFFFFF)

    def take(self, token: int) -> bool:
        """Whether a token belongs to the thoughts, or to what leads from them to the text."""
        if self.may_skip and token != self._forced[0]:
            self.over = True
            return False
        self.may_skip = False
        if self._forced:
            self._forced.pop(0)
        elif token == self._thoughts.closing:
            self._forced, self._closed = list(self._thoughts.lead), True
        self.over = self._closed and not self._forced
        return True


class GrammarState:
    """Follows the text of one request. `fault` says why it cannot any more; the request ends then.

    `follow` goes on by drafts, which `rewind` takes back: the matcher's, and what was known of the thoughts before.
    """

    __slots__ = ("_before", "_ends", "_followed", "_keeps_on", "_matcher", "_thinking", "fault", "words")

    def __init__(
        self,
        matcher: Matcher,
        ends: tuple[int, ...],
        words: int,
        *,
        keeps_on: bool,
        thoughts: ThoughtTokens | None = None,
    ) -> None:
        self._thinking = None if thoughts is None else _Thinking(thoughts, ends)
        self._matcher = matcher
        self.words = words  # of 32 bits, in a row of its mask
        self._ends = ends  # eos ids
        self._keeps_on = keeps_on  # the request ignores eos: it ends where the grammar does
        self.fault: str | None = None
        self._before: _Thinking | None = None  # its thoughts where the drafts begin
        self._followed = -1  # drafts that the matcher has accepted; -1: none is followed

    def fill(self, row: NDArray[np.int32]) -> None:
        """Writes the bits of what may come next; none at all when the matcher fails."""
        thinking = self._thinking
        if thinking is None or thinking.may_skip:
            self._fill(row)
        else:
            row[:] = 0
        if thinking is not None:
            thinking.fill(row)

    def _fill(self, row: NDArray[np.int32]) -> None:
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
        bits = kept.view(np.uint32)
        for eos in self._ends:
            bits[eos // 32] &= np.uint32(~(1 << (eos % 32)) & 0xFFFFFFFF)
        if kept.any():
            row[:] = kept

    def allows(self, tokens: SequenceOf[int]) -> int:
        """How many of `tokens`, in their order, the text may go on with: up to the first that ends it, at most."""
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

    def follow(self, token: int) -> bool:
        """The text goes on with a draft that is allowed; whether anything may follow it."""
        if self._followed < 0:
            self._before = None if self._thinking is None else self._thinking.copy()
            self._followed = 0
        ends = token in self._ends or self.take(token)
        return not ends and self.fault is None

    def rewind(self) -> None:
        """Takes back what was followed."""
        if self._followed < 0:
            return
        followed, self._followed = self._followed, -1
        self._thinking, self._before = self._before, None
        if followed and self.fault is None:
            try:
                self._matcher.rollback(followed)
            except Exception as error:
                self._fail(error)

    def take(self, token: int) -> bool:
        """The text goes on with `token`, which is no eos; whether it is whole now. A failure is kept in `fault`."""
        if self._thinking is not None:
            thought = self._thinking.take(token)
            if self._thinking.over:
                self._thinking = None
            if thought:
                return False
        try:
            self._matcher.accept(token)
            self._followed += self._followed >= 0
            return self._matcher.finished()
        except Exception as error:
            self._fail(error)
            return False

    def _fail(self, error: Exception) -> None:
        log.error("a grammar's matcher failed; its request ends", exc_info=error)
        self.fault = f"the grammar could not be followed any further: {cause(error)}"
