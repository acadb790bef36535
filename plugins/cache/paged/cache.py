"""Which pages does each sequence hold?"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maxserve.core.interfaces import CacheContext, EvictionPolicy
from maxserve.core.nouns import CacheSizes
from maxserve.plugins.cache.paged.policies import LeastFrequentlyUsed, LeastRecentlyUsed
from maxserve.plugins.cache.paged.pool import PagePool
from maxserve.plugins.cache.paged.storage import allocate
from maxserve.plugins.cache.paged.tree import Entry, PrefixTree

TOKEN = np.dtype(np.int64)
LONG_RUN = 512  # tokens; pages side by side that a row should find ahead when it starts a new run


@dataclass(slots=True)
class Row:
    """What an open row holds.

        0 ────────── committed ────────── pages
        │ in the tree │ this row's alone  │
        │ (shared)    │ (given back       │
        │             │  at close)        │

    `committed` and `pages` count pages; `capacity` is `pages` in tokens. The row commits again when it has
    `next_commit` tokens. `node` is the tree entry of page `committed` - 1, or the salt's root. `tail` is the last
    page, -1 if there is none; `expected` is how many pages the tokens known at `open` fill.
    """

    node: Entry | None
    expected: int
    committed: int = 0
    pages: int = 0
    capacity: int = 0
    next_commit: int = sys.maxsize
    tail: int = -1


class PagedCache:
    """Keys and values in pages of a fixed size; equal prefixes share their full pages.

    A page is free, or owned by one row alone, or in the tree; a page of the tree is owned while rows hold it and
    cached otherwise. Nothing is ever copied. One thread.
    """

    def __init__(self, context: CacheContext, policy: EvictionPolicy | None = None) -> None:
        self.page_size = context.page_size
        self.layers = allocate(context)
        self._width = context.page_size * TOKEN.itemsize  # a page's tokens in bytes
        width = -(-context.max_length // context.page_size)
        self.tables: NDArray[np.int32] = np.zeros((context.rows, width), dtype=np.int32)
        self._sharing = context.share_prefixes
        self._rows: list[Row | None] = [None] * context.rows
        self._pool = PagePool(context.pages)
        self._opened = 0
        self._tree = PrefixTree(policy or LeastRecentlyUsed())

    def peek(self, tokens: NDArray[np.int64], salt: str) -> int:
        """How many leading tokens `open` would find; claims nothing."""
        return len(self._match(tokens, salt)) * self.page_size

    def open(self, row: int, tokens: NDArray[np.int64], salt: str) -> int:
        """Takes `row` into use and claims the longest cached prefix; one token at least stays to be computed."""
        assert self._rows[row] is None, f"row {row} is in use"
        tree, size = self._tree, self.page_size
        tree.clock += 1
        found = self._match(tokens, salt)
        for entry in found:
            tree.hold(entry)
            entry.hits += 1
        state = Row(None, -(-len(tokens) // size), len(found), len(found), len(found) * size)
        if self._sharing:
            root = tree.root(salt)
            state.node = found[-1] if found else root
            state.next_commit = (state.committed + 1) * size
        self.tables[row, : len(found)] = [entry.page for entry in found]
        self._rows[row] = state
        self._opened += 1
        self._set_tail(row, state)
        return state.capacity

    def reserve(self, row: int, length: int) -> bool:
        """Gives `row` pages for its first `length` tokens, evicting unused prefixes; False changes nothing."""
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        if length <= state.capacity:
            return True
        count = -(-length // self.page_size) - state.pages
        pool = self._pool
        if count > pool.free + self._tree.unused:
            return False
        if state.pages + count > self.tables.shape[1]:
            raise ValueError(f"row {row} wants {length} tokens; a row holds {self.tables.shape[1] * self.page_size}")
        self._make_room(state, count)
        taken = pool.take(count, state.tail, state.expected - state.pages)
        self.tables[row, state.pages : state.pages + count] = taken
        state.pages += count
        state.capacity = state.pages * self.page_size
        self._set_tail(row, state)
        return True

    def commit(self, row: int, tokens: NDArray[np.int64]) -> None:
        """Says that keys and values of all of `tokens` are written: its full pages may be shared."""
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        if len(tokens) >= state.next_commit:
            self._share(row, state, tokens)

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        state = self._state(row)
        self._tree.clock += 1
        if state.node is not None:
            self._tree.release(state.node)
        self._pool.moved(state.tail, -1)
        self._pool.give(self.tables[row, state.committed : state.pages].tolist())
        self._rows[row] = None
        self._opened -= 1

    def sizes(self) -> CacheSizes:
        free, cached, total = self._pool.free, self._tree.unused, self._pool.total
        return CacheSizes(total=total, free=free, cached=cached, owned=total - free - cached)

    def reset(self) -> int:
        """Forgets every prefix nobody uses; returns the pages freed."""
        pages = self._tree.evict(self._tree.unused)
        self._pool.give(pages)
        return len(pages)

    def check(self) -> None:
        """Recounts pages, tables, users and the eviction order; raises AssertionError naming what is wrong."""
        users: dict[int, int] = {}
        roots: list[Entry] = []
        tails: list[int] = []
        alone: list[int] = []
        for row, state in enumerate(self._rows):
            if state is None:
                continue
            path, root = self._path(row, state)
            for page in path:
                users[page] = users.get(page, 0) + 1
            roots.extend(root)
            pages = self.tables[row, : state.pages].tolist()
            alone.extend(pages[state.committed :])
            tails.extend(pages[-1:])
        opened = sum(state is not None for state in self._rows)
        assert opened == self._opened, f"{opened} rows are open, {self._opened} are counted"
        self._tree.check(self.page_size, users, roots)
        free = self._pool.check(tails)
        shared = [entry.page for entry in self._tree.entries()]
        places = sorted([*free, *shared, *alone])
        assert places == list(range(self._pool.total)), f"pages are lost or in two places: {places}"

    def _make_room(self, state: Row, count: int) -> None:
        """Evicts what is needed, and more when the row must start a run and finds no long one.

        Prefixes are evicted from their ends backwards. Taken one by one as rows need them, such pages would be
        scattered over the rows in the wrong order; taken together they are a run. What is kept free so is at most
        an eighth of the pool or so: half a run per open row.
        """
        pool, tree = self._pool, self._tree
        evicted = max(0, count - pool.free)
        if not pool.follows(state.tail, count):
            run = min(LONG_RUN // self.page_size, pool.total // (4 * self._opened))
            if pool.longest() < run:
                evicted = max(evicted, min(run, tree.unused))
        if evicted:
            pool.give(tree.evict(evicted))

    def _state(self, row: int) -> Row:
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        return state

    def _match(self, tokens: NDArray[np.int64], salt: str) -> list[Entry]:
        if not self._sharing or not len(tokens):
            return []
        return self._tree.match(self._bytes(tokens, 0, (len(tokens) - 1) // self.page_size), self._width, salt)

    def _bytes(self, tokens: NDArray[np.int64], start: int, stop: int) -> bytes:
        """The tokens of pages `start` to `stop`."""
        size = self.page_size
        return np.asarray(tokens[start * size : stop * size], dtype=TOKEN).tobytes()

    def _share(self, row: int, state: Row, tokens: NDArray[np.int64]) -> None:
        """Puts the row's new full pages into the tree, or swaps them for equal ones that are there already.

        The swap is safe for a step that was submitted with the old page: the row never writes to a full page again,
        both pages hold the same keys and values, and whoever gets the old page writes to it in a later step, which
        runs after those submitted before it.
        """
        tree, table = self._tree, self.tables[row]
        full = len(tokens) // self.page_size
        assert full <= state.pages, f"row {row} commits {len(tokens)} tokens, {state.capacity} are reserved"
        node = state.node
        assert node is not None
        spare: list[int] = []
        raw, width = self._bytes(tokens, state.committed, full), self._width
        for start, index in enumerate(range(state.committed, full)):
            key, page = raw[start * width : (start + 1) * width], int(table[index])
            child = node.children.get(key)
            if child is None:
                child = tree.add(node, key, page, (index + 1) * self.page_size)
            else:
                tree.hold(child)
                table[index] = child.page
                spare.append(page)
            node = child
        state.node, state.committed = node, full
        state.next_commit = (full + 1) * self.page_size
        if spare:
            self._set_tail(row, state)
            self._pool.give(spare)

    def _set_tail(self, row: int, state: Row) -> None:
        tail = int(self.tables[row, state.pages - 1]) if state.pages else -1
        self._pool.moved(state.tail, tail)
        state.tail = tail

    def _path(self, row: int, state: Row) -> tuple[list[int], list[Entry]]:
        """The pages a row holds in the tree and the root it stands on, compared with its table."""
        pages: list[int] = []
        node = state.node
        if node is None:
            return pages, []
        while node.parent is not None:
            pages.append(node.page)
            node = node.parent
        table = self.tables[row, : state.committed].tolist()
        assert table == pages[::-1], f"row {row}: its table says {table}, the tree {pages[::-1]}"
        return pages, [node]


def build_lru(context: CacheContext) -> PagedCache:
    """Evicts the prefix that was not used for longest."""
    return PagedCache(context, LeastRecentlyUsed())


def build_lfu(context: CacheContext) -> PagedCache:
    """Evicts the prefix that was found least often."""
    return PagedCache(context, LeastFrequentlyUsed())
