"""Thoughts before a text that is held to a grammar."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.grammar import Matcher
    from maxserve.interfaces.request import ThoughtTokens

WORD = 32  # bits
MOST_ROLLBACK = 256  # tokens


class ThoughtMatcher:
    """A Matcher for thoughts and, behind them, for the text of another one."""

    def __init__(self, matcher: Matcher, thoughts: ThoughtTokens, ends: tuple[int, ...]) -> None:
        self._matcher = matcher
        self._closing, self._lead = thoughts.closing, thoughts.lead
        self._forbidden = (*ends, *thoughts.forbidden)
        self._forced = thoughts.opening  # tokens that must come next
        self._closed = False
        self._may_skip = bool(thoughts.opening) and not thoughts.needed
        self._before: deque[tuple[bool, tuple[int, ...], bool]] = deque(maxlen=MOST_ROLLBACK)  # each thought token
        self._written = -1  # tokens of the text; -1 while there are only thoughts

    def fill(self, row: NDArray[np.int32]) -> None:
        if self._written >= 0 or self._may_skip:
            self._matcher.fill(row)
        else:
            row[:] = 0
        bits = row.view(np.uint32)
        if self._written >= 0:
            return
        if self._forced:
            bits[self._forced[0] // WORD] |= np.uint32(1 << (self._forced[0] % WORD))
            return
        bits[:] = 0xFFFFFFFF
        for token in self._forbidden:
            bits[token // WORD] &= np.uint32(~(1 << (token % WORD)) & 0xFFFFFFFF)

    def accept(self, token: int) -> None:
        if self._written < 0 and self._may_skip and token != self._forced[0]:
            self._written = 0
        if self._written >= 0:
            self._matcher.accept(token)
            self._written += 1
            return
        self._before.append((self._may_skip, self._forced, self._closed))
        self._may_skip = False
        if self._forced:
            self._forced = self._forced[1:]
        elif token == self._closing:
            self._forced, self._closed = self._lead, True
        if self._closed and not self._forced:
            self._written = 0

    def rollback(self, count: int) -> None:
        written = min(count, max(self._written, 0))
        if written:
            self._matcher.rollback(written)
            self._written -= written
        for _ in range(count - written):
            self._may_skip, self._forced, self._closed = self._before.pop()
        if not self._written and (self._may_skip or not self._closed or self._forced):
            self._written = -1

    def finished(self) -> bool:
        return self._written >= 0 and self._matcher.finished()
