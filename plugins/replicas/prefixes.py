"""The prefixes that a replica is likely to have in its cache."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import takewhile

UNTOLD = 4096  # pages of a replica that has not said yet how many it has


def page_chain(prompt: Sequence[int], page_size: int, root: bytes) -> list[bytes]:
    """A hash for each full page of a prompt and all before it, but for its last token, which is always computed.

    Prompts with unlike `root` have nothing in common.
    """
    data, width, before = array("q", prompt).tobytes(), 8 * page_size, root
    chain = []
    for start in range(0, (len(prompt) - 1) // page_size * width, width):
        before = blake2b(before + data[start : start + width], digest_size=16).digest()
        chain.append(before)
    return chain


class Prefixes:
    """The pages that one replica was sent or computed, the least recently used first to go."""

    def __init__(self, pages: int = UNTOLD) -> None:
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._pages = pages

    def __len__(self) -> int:
        return len(self._known)

    def hits(self, chain: Sequence[bytes]) -> int:
        """How many of the first pages it has."""
        return sum(1 for _ in takewhile(self._known.__contains__, chain))

    def enter(self, chain: Sequence[bytes]) -> None:
        """It will have all of these: the first pages of a prompt are used as lately as the last."""
        for page in reversed(chain):  # whose end goes before its beginning
            self._known[page] = None
            self._known.move_to_end(page)
        self.resize(self._pages)

    def resize(self, pages: int) -> None:
        """It keeps no more than so many pages."""
        self._pages = pages
        while len(self._known) > pages:
            self._known.popitem(last=False)

    def forget(self) -> None:
        self._known.clear()
