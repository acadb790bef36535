"""The paged cache: pages of each sequence."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from maxserve.interfaces.cache import CacheContext, CacheListener, CacheSizes, KVLayer, NodeOrder
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.cache.paged.copies import Copy
from maxserve.plugins.cache.paged.holds import Hold
from maxserve.plugins.cache.paged.host import HostTier
from maxserve.plugins.cache.paged.pending import PendingPrefixes
from maxserve.plugins.cache.paged.pool import PagePool
from maxserve.plugins.cache.paged.storage import allocate, give_pages_back
from maxserve.plugins.cache.paged.token_bytes import TokenBytes, layout_of
from maxserve.plugins.cache.paged.tree import Entry, Owner, PrefixTree
from maxserve.plugins.cache.policies import LeastRecentlyUsed
from maxserve.plugins.cache.settings import PagedSettings

TOKEN = np.dtype(np.int64)
LONG_RUN = 512  # tokens; pages side by side that a row should find ahead when it starts a new run


class Row(msgspec.Struct):
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
    owner: Owner
    expected: int
    committed: int = 0
    pages: int = 0
    capacity: int = 0
    next_commit: int = sys.maxsize
    tail: int = -1


class PagedCache:
    """Keys and values in pages of a fixed size; equal prefixes share their full pages.

    A page is free, or owned by one row alone, or in the tree; a page of the tree is owned while rows hold it and
    cached otherwise. Only a host tier copies pages, as a whole. One thread.
    """

    def __init__(self, context: CacheContext, policy: NodeOrder | None = None) -> None:
        self.page_size = context.page_size
        self.layers: Sequence[KVLayer] = allocate(context)
        self._width = context.page_size * TOKEN.itemsize  # a page's tokens in bytes
        width = -(-context.max_length // context.page_size)
        self.block_tables: NDArray[np.int32] = np.zeros((context.rows, width), dtype=np.int32)
        self._sharing = context.share_prefixes
        self._rows: list[Row | None] = [None] * context.rows
        soft = context.pages if context.soft_pages is None else min(context.soft_pages, context.pages)
        self._pool = PagePool(context.pages, soft, run=LONG_RUN // context.page_size)
        self._opened = 0
        policy = chosen_policy(context, policy)
        self._tree = PrefixTree(policy)
        self.holds: set[Hold] = set()
        self._bytes_of = TokenBytes(context, self.layers)
        self.token_bytes, self.layout = self._bytes_of.token_bytes, layout_of(context)
        self._pending = PendingPrefixes(context.page_size)
        self._host: HostTier | None = None
        if context.host_pages and context.share_prefixes:
            self._host = HostTier(context, self.layers, policy, self._width)

    def listen(self, listener: CacheListener) -> None:
        """Tells `listener` of the pages of prefixes on the device and of their copies."""
        assert not self._tree.size, "there are pages of which the listener would not hear"
        self._tree.listeners += (listener,)
        if self._host is not None:
            self._host.listen(listener)

    def lead_copies(self, tell: Copy) -> None:
        """Of ranks that share a model: tells of each copy that is made."""
        assert self._host is not None, "only a host tier copies pages"
        self._host.copies.tell = tell

    def follow_copies(self) -> Copy:
        """Makes those of another rank."""
        assert self._host is not None, "only a host tier copies pages"
        return self._host.copies.copy

    def peek(self, tokens: NDArray[np.int64], salt: str) -> int:
        """How many leading tokens `open` would find; claims nothing."""
        found = self._match(tokens, salt)
        count = len(found)
        if self._host is not None:
            room = self._available - sum(not entry.users for entry in found)  # `open` holds what it found
            count += max(0, min(len(self._host.match(self._prefix(tokens), salt)) - count, room))
        return count * self.page_size

    def pending(self, tokens: NDArray[np.int64], salt: str, found: int) -> int:
        """How many leading tokens `open` would find, of which `found` are there, once other rows are computed."""
        return self._pending.length(tokens, salt, found)

    def open(self, row: int, tokens: NDArray[np.int64], salt: str) -> int:
        """Takes `row` into use and claims the longest cached prefix; one token at least stays to be computed."""
        assert self._rows[row] is None, f"row {row} is in use"
        tree, size = self._tree, self.page_size
        tree.clock += 1
        found = self._match(tokens, salt)
        for entry in found:
            tree.hold(entry)
            entry.hits += 1
        state = Row(None, Owner(salt), -(-len(tokens) // size), len(found), len(found), len(found) * size)
        if self._sharing:
            root = tree.root(salt)
            state.node = found[-1] if found else root
            state.next_commit = (state.committed + 1) * size
        self.block_tables[row, : len(found)] = [entry.page for entry in found]
        self._rows[row] = state
        self._opened += 1
        self._set_tail(row, state)
        if self._host is not None:
            self._read_back(row, state, tokens, self._host)
        if self._sharing:
            self._pending.open(row, tokens, salt, state.committed)
        return state.capacity

    def tag(self, row: int, user: str, pinned: bool) -> None:
        """Says whose request the row is; what it found is pinned with what it will compute."""
        state = self._state(row)
        state.owner.user, state.owner.pinned = user, pinned
        node = state.node if pinned else None
        while node is not None and node.parent is not None:
            node.pinned, node = True, node.parent

    def reserve(self, row: int, length: int) -> bool:
        """Gives `row` pages for its first `length` tokens, evicting unused prefixes; False changes nothing."""
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        if length <= state.capacity:
            return True
        count = -(-length // self.page_size) - state.pages
        if count > self._available:
            return False
        if state.pages + count > self.block_tables.shape[1]:
            raise ValueError(
                f"row {row} wants {length} tokens; a row holds {self.block_tables.shape[1] * self.page_size}"
            )
        self._grow(row, state, count)
        return True

    def commit(self, row: int, tokens: NDArray[np.int64]) -> None:
        """Says that keys and values of all of `tokens` are written: its full pages may be shared."""
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        if len(tokens) >= state.next_commit:
            self._share(row, state, tokens)
            self._pending.commit(row, state.committed)
            if self._host is not None:
                held = self.block_tables[row, : state.committed].tolist()
                self._host.write(self._bytes(tokens, 0, state.committed), state.owner, held)

    def truncate(self, row: int, length: int) -> None:
        """Takes back what was reserved behind the row's first `length` tokens, none of which is committed."""
        state, pages = self._state(row), -(-length // self.page_size)
        assert pages >= state.committed, f"row {row}: {state.committed} pages are committed, {length} tokens shall stay"
        if pages >= state.pages:
            return
        rejected = self.block_tables[row, pages : state.pages].tolist()
        state.pages, state.capacity = pages, pages * self.page_size
        self._set_tail(row, state)
        self._pool.give(rejected)

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        state = self._state(row)
        self._tree.clock += 1
        if state.node is not None:
            self._tree.release(state.node)
        self._pool.moved(state.tail, -1)
        self._pool.give(self.block_tables[row, state.committed : state.pages].tolist())
        self._pending.close(row)
        self._rows[row] = None
        self._opened -= 1

    def sizes(self) -> CacheSizes:
        pool, cached, host = self._pool, self._tree.unused, self._host
        free = pool.free + pool.closed
        owned = pool.total - free - cached
        if host is None:
            return CacheSizes(total=pool.total, free=free, cached=cached, owned=owned, held=self._tree.held)
        return CacheSizes(
            total=pool.total,
            free=free,
            cached=cached,
            owned=owned,
            host_total=host.total,
            host_cached=host.cached,
            host_hits=host.hits,
            held=self._tree.held,
        )

    def hold(self, tokens: NDArray[np.int64], salt: str) -> Hold:
        """Keeps what there is of a prefix, and lets more of it be written."""
        assert self._sharing, "no prefixes are shared"
        hold = Hold(self, self._tree, self._bytes_of, tokens, salt)
        self.holds.add(hold)
        return hold

    def take_pages(self, count: int, after: int) -> list[int] | None:
        """So many pages for a prefix whose last page is `after`; None where they cannot be had."""
        if count > self._available:
            return None
        self._evict(self._pool.prepare(count, after=after, unused=self._tree.unused, tables=self._opened + 1))
        return self._pool.take(count, after, count)

    def copy_to_host(self, tokens: NDArray[np.int64], owner: Owner, pages: Sequence[int]) -> None:
        """Keeps copies of the pages that `tokens` begin with, where there is a host tier."""
        if self._host is not None:
            self._host.write(self._bytes(tokens, 0, len(pages)), owner, pages)

    def reset(self) -> int:
        """Forgets every unused prefix, and all copies on the host; returns the pages of the device freed."""
        if self._host is not None:
            self._host.reset()
        freed = self._evict(self._tree.unused)
        for listener in () if self._tree.size else self._tree.listeners:
            listener.cleared()
        return freed

    def give_back(self) -> None:
        """Gives the memory of free pages back to the system."""
        give_pages_back(self.layers, self._pool.runs())

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
            pages = self.block_tables[row, : state.pages].tolist()
            alone.extend(pages[state.committed :])
            tails.extend(pages[-1:])
        for hold in self.holds:
            for entry in hold.path:
                users[entry.page] = users.get(entry.page, 0) + 1
            roots.append(hold.root)
        held = len({entry.page for hold in self.holds for entry in hold.path})
        assert held == self._tree.held, f"{held} pages are held, {self._tree.held} are counted"
        opened = sum(state is not None for state in self._rows)
        assert opened == self._opened, f"{opened} rows are open, {self._opened} are counted"
        self._tree.check(self.page_size, users, roots)
        free = self._pool.check(tails)
        shared = [entry.page for entry in self._tree.entries()]
        pages = sorted([*free, *shared, *alone])
        assert pages == list(range(self._pool.opened)), f"pages are lost or used twice: {pages}"
        if self._host is not None:
            self._host.check()

    @property
    def _available(self) -> int:
        """Pages that can be had without taking them from a row."""
        return self._pool.free + self._pool.closed + self._tree.unused

    def _grow(self, row: int, state: Row, count: int) -> None:
        """Gives the row `count` pages more, which there must be."""
        self._evict(self._pool.prepare(count, after=state.tail, unused=self._tree.unused, tables=self._opened))
        taken = self._pool.take(count, state.tail, state.expected - state.pages)
        self.block_tables[row, state.pages : state.pages + count] = taken
        state.pages += count
        state.capacity = state.pages * self.page_size
        self._set_tail(row, state)

    def _evict(self, count: int) -> int:
        if count:
            self._pool.give(self._tree.evict(count))
            if self._host is not None:
                self._host.settle()
        return count

    def _read_back(self, row: int, state: Row, tokens: NDArray[np.int64], host: HostTier) -> None:
        """Claims what the host has of the row's prefix beyond what the device has, as far as pages can be had."""
        copies = host.find(self._prefix(tokens), state.owner.salt)[state.pages :]
        count = min(len(copies), self._available)
        if not count:
            return
        self._grow(row, state, count)
        host.read(copies[:count], self.block_tables[row, state.committed : state.pages].tolist())
        self._share(row, state, tokens[: state.capacity])
        node = state.node
        for copy in reversed(copies[:count]):
            assert node is not None
            node.hits, node.user, node.pinned, node = copy.hits, copy.user, copy.pinned, node.parent

    def _state(self, row: int) -> Row:
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        return state

    def _match(self, tokens: NDArray[np.int64], salt: str) -> list[Entry]:
        if not self._sharing or not len(tokens):
            return []
        return self._tree.match(self._prefix(tokens), self._width, salt)

    def _prefix(self, tokens: NDArray[np.int64]) -> bytes:
        """The full pages of what may be found in a cache: one token at least stays to be computed."""
        return self._bytes(tokens, 0, max(0, len(tokens) - 1) // self.page_size)

    def _bytes(self, tokens: NDArray[np.int64], start: int, stop: int) -> bytes:
        """The tokens of pages `start` to `stop`."""
        size = self.page_size
        return np.asarray(tokens[start * size : stop * size], dtype=TOKEN).tobytes()

    def _share(self, row: int, state: Row, tokens: NDArray[np.int64]) -> None:
        """Puts the row's new full pages into the tree, or swaps them for equal ones that are there already.

        The swap is safe for a step that was submitted with the old page: the row never writes to a full page again,
        both pages hold the same keys and values, and the next owner of the old page writes to it in a later step, which
        runs after those submitted before it.
        """
        tree, table = self._tree, self.block_tables[row]
        full = len(tokens) // self.page_size
        assert full <= state.pages, f"row {row} commits {len(tokens)} tokens, {state.capacity} are reserved"
        node = state.node
        assert node is not None
        slack: list[int] = []
        raw, width = self._bytes(tokens, state.committed, full), self._width
        for start, index in enumerate(range(state.committed, full)):
            key, page = raw[start * width : (start + 1) * width], int(table[index])
            child = node.children.get(key)
            if child is None:
                child = tree.add(node, key, page, (index + 1) * self.page_size, state.owner)
            else:
                tree.hold(child)
                child.pinned = child.pinned or state.owner.pinned
                table[index] = child.page
                slack.append(page)
            node = child
        state.node, state.committed = node, full
        state.next_commit = (full + 1) * self.page_size
        if slack:
            self._set_tail(row, state)
            self._pool.give(slack)

    def _set_tail(self, row: int, state: Row) -> None:
        tail = int(self.block_tables[row, state.pages - 1]) if state.pages else -1
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
        table = self.block_tables[row, : state.committed].tolist()
        assert table == pages[::-1], f"row {row}: its table says {table}, the tree {pages[::-1]}"
        return pages, [node]


def chosen_policy(context: CacheContext, own: NodeOrder | None) -> NodeOrder:
    """A strategy's own order of eviction, else the one that was chosen by name."""
    chosen = context.config(PagedSettings).eviction
    if own is None:
        known = context.eviction_policies or {"lru": LeastRecentlyUsed}  # a context made by hand has none
        if chosen not in known:
            names = ", ".join(sorted(known))
            raise SettingsError(f"--paged.eviction {chosen}: no eviction policy is called so; there are: {names}")
        return known[chosen]()
    if chosen != PagedSettings().eviction:
        raise SettingsError(
            f"--paged.eviction {chosen}: the chosen cache strategy has an order of eviction of its own; leave the "
            "option out, or take --cache-strategy paged"
        )
    return own
