"""Prefixes with a copy in host memory."""

from __future__ import annotations

from collections.abc import Sequence

from maxserve.interfaces.cache import CacheContext, CacheListener, KVLayer, NodeOrder
from maxserve.plugins.cache.paged.copies import PageCopies
from maxserve.plugins.cache.paged.tree import Entry, Owner, PrefixTree


class HostTier:
    """Copies of full pages, found by what they hold, like the pages of the device.

    Written through: a page is copied when a row commits it, so that the device may forget it at any time. A copy is
    never waited for: it is used only while it is made or read. Tokens come as bytes, pages of `width` each.
    """

    def __init__(self, context: CacheContext, layers: Sequence[KVLayer], policy: NodeOrder, width: int) -> None:
        self.total = context.host_pages
        self.hits = 0  # pages read back
        self._page_size = context.page_size
        self._width = width
        self._tree = PrefixTree(policy, "host")
        self._free = list(reversed(range(self.total)))
        self.copies = PageCopies(context, layers)

    @property
    def cached(self) -> int:
        """Pages that hold a prefix."""
        return self._tree.size

    def listen(self, listener: CacheListener) -> None:
        """Tells of copies that are made and forgotten."""
        self._tree.listeners += (listener,)

    def match(self, tokens: bytes, salt: str) -> list[Entry]:
        """The copies of the longest known prefix of `tokens`, from its start."""
        return self._tree.match(tokens, self._width, salt)

    def find(self, tokens: bytes, salt: str) -> list[Entry]:
        """As `match`, and counts as a use, also of what the device still has: who is in demand stays."""
        self._tree.clock += 1
        found = self.match(tokens, salt)
        for entry in found:
            entry.last_used = self._tree.clock
            entry.hits += 1
        return found

    def read(self, copies: Sequence[Entry], pages: Sequence[int]) -> None:
        """Fills the device's `pages`."""
        self.hits += len(pages)
        self.copies.load([(page, copy.page) for page, copy in zip(pages, copies, strict=True)])

    def write(self, tokens: bytes, owner: Owner, pages: Sequence[int]) -> None:
        """Copies those of the device's `pages`, which hold `tokens`, that are not here yet, as far as there is room."""
        tree, width = self._tree, self._width
        tree.clock += 1
        node = tree.root(owner.salt)
        for known in self.match(tokens, owner.salt):
            tree.hold(known)
            known.pinned = known.pinned or owner.pinned
            node = known
        pairs: list[tuple[int, int]] = []
        for index in range(node.tokens // self._page_size, len(pages)):
            if not self._free and not tree.unused:
                break
            page = self._free.pop() if self._free else tree.evict(1)[0]
            key, end = tokens[index * width : (index + 1) * width], (index + 1) * self._page_size
            node = tree.add(node, key, page, end, owner)
            pairs.append((pages[index], page))
        tree.release(node)
        self.copies.save(pairs)

    def settle(self) -> None:
        """Call before pages of the device are given to others: copies under way still read them."""
        self.copies.settle()

    def reset(self) -> None:
        """Forgets everything."""
        self._free += self._tree.evict(self._tree.unused)

    def check(self) -> None:
        """Recounts; between two calls no copy is in use."""
        self._tree.check(self._page_size, {}, [])
        pages = sorted([*self._free, *(entry.page for entry in self._tree.entries())])
        assert pages == list(range(self.total)), f"host pages are lost or used twice: {pages}"
