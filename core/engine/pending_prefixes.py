"""Prefixes that a step is computing: requests that begin alike wait for their pages instead of computing them again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from maxserve.core.engine.sequence import Sequence

MOST_HELD_BACK = 64  # in one plan; looking at a request costs a search of the cache


class PendingPrefixes:
    """The prompts being computed, each by the page it computes next.

    Pages are shared once they are written. The `n` answers to one prompt, which arrive together, would otherwise all
    compute it, and so would a burst of requests with one system prompt: all but the first find nothing in the cache.
    """

    def __init__(self, begun: Iterable[Sequence], page_size: int) -> None:
        self._begun = begun
        self._page_size = page_size
        self._first: dict[tuple[str, int, bytes], Sequence] | None = None
        self.held_back = 0

    def add(self, sequence: Sequence) -> None:
        """A prompt that the plan begins to compute."""
        if self._first is not None:
            self._note(sequence, self._first)

    def worth_waiting(self, sequence: Sequence, hit: int) -> bool:
        """Returns whether at least half of what a request lacks, beyond its cached `hit` tokens, is being computed."""
        if self._first is None:
            self._first = {}
            for each in self._begun:
                self._note(each, self._first)
        key = self._key(sequence, hit) if self._first else None
        first = self._first.get(key) if key is not None else None
        if first is None or first is sequence:
            return False
        gain = self._shared(first, sequence) - hit
        wait = gain > 0 and 2 * gain >= sequence.length - hit
        self.held_back += wait
        return wait

    def _note(self, sequence: Sequence, into: dict[tuple[str, int, bytes], Sequence]) -> None:
        key = self._key(sequence, int(sequence.ledger.written[sequence.slot]))
        if key is not None:
            into.setdefault(key, sequence)

    def _key(self, sequence: Sequence, computed: int) -> tuple[str, int, bytes] | None:
        """The page after the computed ones; None where the prompt fills none any more."""
        start = computed // self._page_size * self._page_size
        page = sequence.keys[start : min(start + self._page_size, sequence.prompt_length)]
        return (sequence.salt, start, page.tobytes()) if len(page) == self._page_size else None

    def _shared(self, first: Sequence, other: Sequence) -> int:
        """Tokens at the start of both prompts that fill pages."""
        most = min(first.prompt_length, other.prompt_length)
        differs = np.flatnonzero(first.keys[:most] != other.keys[:most])
        common = int(differs[0]) if len(differs) else most
        return common // self._page_size * self._page_size
