"""Prefixes of the paged cache that are kept for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from maxserve.plugins.cache.paged.token_bytes import TokenBytes
from maxserve.plugins.cache.paged.tree import Entry, Owner, PrefixTree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class HasPages(Protocol):
    """The cache of a hold. `holds` are those that there are."""

    page_size: int
    holds: set[Hold]

    def take_pages(self, count: int, after: int) -> list[int] | None: ...
    def copy_to_host(self, tokens: NDArray[np.int64], owner: Owner, pages: Sequence[int]) -> None: ...


class Hold:
    """A PrefixHold of whole pages: a user of tree entries, as a row is, without a table."""

    def __init__(
        self, cache: HasPages, tree: PrefixTree, bytes_of: TokenBytes, tokens: NDArray[np.int64], salt: str
    ) -> None:
        self._cache, self._tree = cache, tree
        self._bytes_of = bytes_of
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self._owner = Owner(salt)
        self.root: Entry = tree.root(salt)
        self.path: list[Entry] = []
        self._released = False
        self.extend()

    @property
    def length(self) -> int:
        return len(self.path) * self._cache.page_size

    @property
    def _node(self) -> Entry:
        return self.path[-1] if self.path else self.root

    def extend(self) -> int:
        """Also holds what the tree has of the tokens by now."""
        assert not self._released, "it was released"
        tree, count = self._tree, len(self._tokens) // self._cache.page_size
        tree.clock += 1
        while len(self.path) < count:
            child = self._node.children.get(self._key(len(self.path)))
            if child is None:
                break
            tree.hold(child)
            self._keep(child)
        return self.length

    def read(self, start: int, stop: int) -> bytes:
        """Keys and values of held tokens."""
        assert 0 <= start <= stop <= self.length, f"tokens {start} to {stop} are wanted, {self.length} are held"
        size = self._cache.page_size
        first = start // size
        pages = [entry.page for entry in self.path[first : -(-stop // size)]]
        return self._bytes_of.read(pages, start - first * size, stop - first * size)

    def write(self, start: int, data: bytes) -> bool:
        """Puts whole pages of tokens into the cache behind what is held; False where no pages can be had."""
        size, width = self._cache.page_size, self._bytes_of.token_bytes
        count, rest = divmod(len(data), width * size)
        assert rest == start % size == 0, f"{len(data)} bytes from token {start} on are no whole pages"
        skip = self.extend() // size - start // size  # pages that came from elsewhere meanwhile
        assert skip >= 0, f"tokens from {start} on do not follow the {self.length} that are held"
        if count <= skip:
            return True
        pages = self._cache.take_pages(count - skip, self.path[-1].page if self.path else -1)
        if pages is None:
            return False
        self._bytes_of.write(pages, data, skip * size)
        tree = self._tree
        tree.clock += 1
        for page in pages:
            index = len(self.path)
            self._keep(tree.add(self._node, self._key(index), page, (index + 1) * size, self._owner))
        self._cache.copy_to_host(self._tokens, self._owner, [entry.page for entry in self.path])
        return True

    def release(self) -> None:
        """Ends it; harmless when done before."""
        if self._released:
            return
        self._released = True
        tree = self._tree
        for entry in self.path:
            entry.holds -= 1
            tree.held -= not entry.holds
        tree.clock += 1
        tree.release(self._node)
        self._cache.holds.discard(self)

    def _keep(self, entry: Entry) -> None:
        """Counts an entry that has the hold among its users."""
        self._tree.held += not entry.holds
        entry.holds += 1
        self.path.append(entry)

    def _key(self, index: int) -> bytes:
        size = self._cache.page_size
        return self._tokens[index * size : (index + 1) * size].tobytes()
