"""The paged cache where some layers have windows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from maxserve.interfaces.cache import CacheContext, CacheListener, CacheSizes, KVLayer, NodeOrder
from maxserve.plugins.cache.paged.cache import LONG_RUN, TOKEN, chosen_policy
from maxserve.plugins.cache.paged.pending import PendingPrefixes
from maxserve.plugins.cache.paged.pool import PagePool
from maxserve.plugins.cache.paged.storage import allocate, give_pages_back
from maxserve.plugins.cache.paged.tree import Owner
from maxserve.plugins.cache.paged.window_tree import Entry, Reach, WindowTree, reaches

Tokens = NDArray[np.int64]


class Row(msgspec.Struct):
    """What an open row holds, in the table of each group.

        0 ──────── first ────────── committed ────────── pages
        │ given    │ in the tree    │ this row's alone   │
        │ back     │ (shared)       │ (given back at     │
        │          │                │ close)             │

    All count pages; `firsts` has the first one by reach, 0 for groups that see everything. `path` are the entries of
    the committed pages, `tails` the last pages by group, -1 where the group holds none. The row commits again when it
    has `next_commit` tokens.
    """

    owner: Owner
    expected: int
    path: list[Entry]
    firsts: list[int]
    tails: list[int]
    pages: int
    next_commit: int
    node: Entry | None = None

    @property
    def committed(self) -> int:
        return len(self.path)


class WindowedCache:
    """A GroupedCache: pages before a group's window are given back while the row is open.

    A page is free, or owned by one row and group alone, or in the tree as part of a piece; a piece is owned while rows
    hold it and cached otherwise. One thread.
    """

    def __init__(self, context: CacheContext, policy: NodeOrder | None = None) -> None:
        self.page_size = context.page_size
        self.layers: Sequence[KVLayer] = allocate(context)
        self._width = context.page_size * TOKEN.itemsize  # a page's tokens in bytes
        shape = (len(context.groups), context.rows, -(-context.max_length // context.page_size))
        self.group_block_tables: NDArray[np.int32] = np.zeros(shape, dtype=np.int32)
        self.block_tables: NDArray[np.int32] = self.group_block_tables[0]
        self._sharing = context.share_prefixes
        self._rows: list[Row | None] = [None] * context.rows
        soft = context.pages if context.soft_pages is None else min(context.soft_pages, context.pages)
        self._pool = PagePool(context.pages, soft, run=LONG_RUN // context.page_size, slack=context.pages // 8)
        self._opened = 0
        self._pending = PendingPrefixes(context.page_size)
        self._reaches: list[Reach] = reaches(context.groups)
        self._tree = WindowTree(chosen_policy(context, policy), self._reaches, context.page_size)

    def listen(self, listener: CacheListener) -> None:
        """Tells `listener` of the pages of prefixes, of each reach by itself."""
        self._tree.listeners += (listener,)

    def peek(self, tokens: Tokens, salt: str) -> int:
        """How many leading tokens `open` would find; claims nothing."""
        return len(self._match(tokens, salt)) * self.page_size

    def pending(self, tokens: Tokens, salt: str, found: int) -> int:
        """How many leading tokens `open` would find, of which `found` are there, once other rows are computed."""
        return self._pending.length(tokens, salt, found)

    def open(self, row: int, tokens: Tokens, salt: str) -> int:
        """Takes `row` into use and claims the longest prefix that can be used; one token stays to be computed."""
        assert self._rows[row] is None, f"row {row} is in use"
        tree, size = self._tree, self.page_size
        tree.clock += 1
        found = self._match(tokens, salt)
        count = len(found)
        firsts, tails = tree.firsts(count), [-1] * len(self.group_block_tables)
        state = Row(Owner(salt), -(-len(tokens) // size), found, firsts, tails, count, (count + 1) * size)
        for number, first in enumerate(firsts):
            for index in range(first, count):
                piece = found[index].piece(number)
                tree.hold(piece)
                piece.hits += 1
                self._write(row, number, index, piece.pages)
        if self._sharing:
            state.node = found[-1] if found else tree.root(salt)
            tree.stand(state.node)
            self._pending.open(row, tokens, salt, count)
        self._rows[row] = state
        self._opened += 1
        self._set_tails(row, state)
        return count * size

    def tag(self, row: int, user: str, pinned: bool) -> None:
        """Says whose request the row is; what it found is pinned with what it will compute."""
        state = self._state(row)
        state.owner.user, state.owner.pinned = user, pinned
        for number, first in enumerate(state.firsts if pinned else ()):
            for entry in state.path[first:]:
                entry.piece(number).pinned = True

    def reserve(self, row: int, length: int) -> bool:
        """Gives `row` pages for its first `length` tokens, evicting unused prefixes; False changes nothing."""
        state = self._state(row)
        count = -(-length // self.page_size) - state.pages
        if count <= 0:
            return True
        if count * len(state.tails) > self._pool.free + self._pool.closed + self._tree.unused:
            return False
        _, _, most = self.group_block_tables.shape
        if state.pages + count > most:
            raise ValueError(f"row {row} wants {length} tokens; a row holds {most * self.page_size}")
        for reach in self._reaches:
            for group in range(reach.start, reach.stop):
                ahead = count if reach.group.bounded else state.expected - state.pages
                taken = self._take(count, state.tails[group], ahead)
                self.group_block_tables[group, row, state.pages : state.pages + count] = taken
        state.pages += count
        self._set_tails(row, state)
        return True

    def commit(self, row: int, tokens: Tokens) -> None:
        """Says that keys and values of all of `tokens` are written: full pages may be shared, passed ones are freed."""
        state = self._state(row)
        if len(tokens) < state.next_commit:
            return
        full = len(tokens) // self.page_size
        assert full <= state.pages, f"row {row} commits {len(tokens)} tokens, {state.pages} pages are reserved"
        if self._sharing:
            self._share(row, state, tokens, full)
            self._pending.commit(row, full)
        for number, reach in enumerate(self._reaches):
            self._pass(row, state, number, reach.group.first_page(len(tokens), self.page_size))
        state.next_commit = (full + 1) * self.page_size
        self._set_tails(row, state)

    def truncate(self, row: int, length: int) -> None:
        """Takes back what was reserved behind the row's first `length` tokens, none of which is committed."""
        state, pages = self._state(row), -(-length // self.page_size)
        least = max(state.committed, *state.firsts)
        assert pages >= least, f"row {row}: {least} pages are committed, {length} tokens shall stay"
        if pages >= state.pages:
            return
        rejected = self.group_block_tables[:, row, pages : state.pages].ravel().tolist()
        state.pages = pages
        self._set_tails(row, state)
        self._pool.give(rejected)

    def close(self, row: int) -> None:
        """Gives the row's pages back; committed ones stay as cached prefixes until they are evicted."""
        state = self._state(row)
        self._tree.clock += 1
        for number, first in enumerate(state.firsts):
            for index in range(state.committed - 1, first - 1, -1):  # backwards: the end of a prefix goes first
                self._tree.drop(state.path[index].piece(number))
        self._pool.give(self._alone(row, state))
        if state.node is not None:
            self._tree.leave(state.node)
        for tail in state.tails:
            self._pool.moved(tail, -1)
        self._pending.close(row)
        self._rows[row] = None
        self._opened -= 1

    def sizes(self) -> CacheSizes:
        free, cached = self._pool.free + self._pool.closed, self._tree.unused
        return CacheSizes(total=self._pool.total, free=free, cached=cached, owned=self._pool.total - free - cached)

    def reset(self) -> int:
        """Forgets every unused prefix; returns the pages freed."""
        unused = self._tree.unused
        self._pool.give(self._tree.evict(unused))
        if not any(self._tree.pieces()):
            for listener in self._tree.listeners:
                listener.cleared()
        return unused

    def give_back(self) -> None:
        """Gives the memory of free pages back to the system."""
        give_pages_back(self.layers, self._pool.runs())

    def check(self) -> None:
        """Recounts pages, tables, users and the eviction order; raises AssertionError naming what is wrong."""
        users: dict[int, int] = {}
        standing: dict[int, int] = {}
        tails: list[int] = []
        alone: list[int] = []
        for row, state in enumerate(self._rows):
            if state is None:
                continue
            for page in self._held(row, state):
                users[page] = users.get(page, 0) + 1
            if state.node is not None:
                standing[id(state.node)] = standing.get(id(state.node), 0) + 1
            alone += self._alone(row, state)
            tails += [tail for tail in state.tails if tail >= 0]
        opened = sum(state is not None for state in self._rows)
        assert opened == self._opened, f"{opened} rows are open, {self._opened} are counted"
        self._tree.check(users, standing)
        shared = [page for piece in self._tree.pieces() for page in piece.pages]
        pages = sorted([*self._pool.check(tails), *shared, *alone])
        assert pages == list(range(self._pool.opened)), f"pages are lost or used twice: {pages}"

    def _match(self, tokens: Tokens, salt: str) -> list[Entry]:
        if not self._sharing or not len(tokens):
            return []
        whole = (len(tokens) - 1) // self.page_size  # pages; one token at least stays to be computed
        return self._tree.match(self._bytes(tokens, 0, whole), self._width, salt)

    def _bytes(self, tokens: Tokens, start: int, stop: int) -> bytes:
        """The tokens of pages `start` to `stop`."""
        size = self.page_size
        return np.asarray(tokens[start * size : stop * size], dtype=TOKEN).tobytes()

    def _take(self, count: int, after: int, ahead: int) -> list[int]:
        """`count` pages for a group, best those after page `after`; there must be so many."""
        pool, tree = self._pool, self._tree
        tables = self._opened * len(self.group_block_tables)
        evicted = pool.prepare(count, after=after, unused=tree.unused, tables=tables)
        if evicted:
            pool.give(tree.evict(evicted))
        return pool.take(count, after, ahead)

    def _share(self, row: int, state: Row, tokens: Tokens, full: int) -> None:
        """Puts the row's new full pages into the tree, or swaps them for equal ones that are there already.

        Safe for steps in flight for the reason given in PagedCache._share, which holds for pages that are passed, too.
        """
        tree, width, start = self._tree, self._width, state.committed
        before = node = state.node
        assert before is not None
        assert node is not None
        raw = self._bytes(tokens, start, full)
        for index in range(start, full):
            entry = tree.child(node, raw[(index - start) * width : (index - start + 1) * width])
            for number in range(len(self._reaches)):
                self._share_piece(row, entry, number, index, state.owner)
            state.path.append(entry)
            node = entry
        tree.stand(node)
        tree.leave(before)
        state.node = node

    def _share_piece(self, row: int, entry: Entry, number: int, index: int, owner: Owner) -> None:
        own, piece = self._read(row, number, index), entry.pieces[number]
        if piece is None:
            self._tree.put(entry, number, own, owner)
        else:
            self._tree.hold(piece)
            piece.pinned = piece.pinned or owner.pinned
            self._write(row, number, index, piece.pages)
            self._pool.give(list(own))

    def _pass(self, row: int, state: Row, number: int, first: int) -> None:
        """Lets go of a reach's pages before `first`; all of them are full."""
        for index in range(state.firsts[number], first):
            if self._sharing:
                self._tree.drop(state.path[index].piece(number))
            else:
                self._pool.give(list(self._read(row, number, index)))
        state.firsts[number] = max(first, state.firsts[number])

    def _state(self, row: int) -> Row:
        state = self._rows[row]
        assert state is not None, f"row {row} is not open"
        return state

    def _read(self, row: int, number: int, index: int) -> tuple[int, ...]:
        """The pages of a reach at `index` of the row's tables."""
        reach = self._reaches[number]
        return tuple(self.group_block_tables[reach.start : reach.stop, row, index].tolist())

    def _write(self, row: int, number: int, index: int, pages: tuple[int, ...]) -> None:
        reach = self._reaches[number]
        self.group_block_tables[reach.start : reach.stop, row, index] = pages

    def _set_tails(self, row: int, state: Row) -> None:
        """Notes the last page of each group, which it grows from."""
        for number, reach in enumerate(self._reaches):
            some = state.pages > state.firsts[number]
            for group in range(reach.start, reach.stop):
                tail = int(self.group_block_tables[group, row, state.pages - 1]) if some else -1
                self._pool.moved(state.tails[group], tail)
                state.tails[group] = tail

    def _held(self, row: int, state: Row) -> list[int]:
        """The first pages of the pieces a row holds, compared with its tables."""
        pages: list[int] = []
        for number, first in enumerate(state.firsts):
            for index in range(first, state.committed):
                piece, own = state.path[index].piece(number), self._read(row, number, index)
                assert own == piece.pages, f"row {row}: its tables say {own}, the tree {piece.pages}"
                pages.append(piece.page)
        return pages

    def _alone(self, row: int, state: Row) -> list[int]:
        """The pages that are this row's alone."""
        found: list[int] = []
        for number, reach in enumerate(self._reaches):
            start = max(state.firsts[number], state.committed)
            found += self.group_block_tables[reach.start : reach.stop, row, start : state.pages].ravel().tolist()
        return found
