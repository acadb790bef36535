"""A model of a cache: a dictionary of prefixes, compared call by call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from maxserve.core.interfaces.cache import Cache, CacheContext, CacheGroup, CacheLayer, GroupedCache

if TYPE_CHECKING:
    Tokens = NDArray[np.int64]

AMPLE = 4096  # pages of a host tier that never has to forget
ONES = (CacheLayer(kv_heads=1, head_dim=1),) * 2  # one number per token: the least that shows which page it lies in


class Prefixes:
    """A number for each (salt, token prefix), the same whenever it is the same prefix."""

    def __init__(self) -> None:
        self._ids: dict[tuple[Any, int], int] = {}

    def of(self, tokens: Tokens, salt: str) -> Tokens:
        """For each token the number of the prefix that ends with it."""
        found: list[int] = []
        last: Any = salt
        for token in tokens.tolist():
            last = self._ids.setdefault((last, token), len(self._ids) + 1)
            found.append(last)
        return np.array(found, dtype=np.int64)


WHOLE = CacheGroup(layers=())  # all layers, where the context has no groups
Held = set[tuple[int, int]]  # (number of the prefix that ends a page, group): what was committed of it


@dataclass(slots=True)
class Open:
    """A row in use: its tokens, the numbers of their prefixes, and how many are written and may be reserved.

    `firsts`: by group, the first page that it still needed when it last filled one; `full` pages were full then.
    """

    tokens: Tokens
    salt: str
    ids: Tokens
    written: int
    pages: int
    firsts: list[int]
    full: int


class Model:
    """Drives a cache and predicts it. Any difference is an AssertionError.

    Every token's slot in the cache's storage (in a plain array where the cache was given no layers) gets the number of
    its prefix, so a row that reads another number than its own reads another row's keys and values.

    `copies`: the cache has a host tier, to which a commit of new full pages copies whatever of the row it lacks.
    """

    def __init__(self, cache: Cache, context: CacheContext, *, shares: bool, copies: bool = False) -> None:
        self.cache = cache
        self.context = context
        self.rows: dict[int, Open] = {}
        self._shares = shares
        self._ample_host = copies and context.host_pages >= AMPLE
        self._groups = context.groups or (WHOLE,)
        self._prefixes = Prefixes()
        self._known: Held = set()  # what was committed at some time
        self._copied: Held = set()  # of these, what the host was given
        self._complete = True  # nothing can have been evicted yet
        self._touched: set[int] = set()  # pages that rows ever had
        self._most_owned = 0
        self._tables: NDArray[np.int32] = (
            cast("GroupedCache", cache).group_block_tables if context.groups else cache.block_tables[None]
        )
        self._storage = _storage(cache, context, self._groups)

    def open(self, row: int, tokens: Tokens, salt: str) -> int:
        """Opens a row; the match must be what the dictionary says."""
        ids = self._prefixes.of(tokens, salt)
        before = self.cache.sizes()
        peeked = self.cache.peek(tokens, salt)
        assert self.cache.sizes() == before, "peek changed the sizes"
        found = self.cache.open(row, tokens, salt)
        assert found == peeked, f"peek found {peeked} tokens, open found {found}"
        assert 0 <= found < len(tokens), f"{found} tokens of {len(tokens)} were found: one must stay to be computed"
        most, least = self._match(ids, self._known), self._match(ids, self._held())
        assert found <= most, f"{found} tokens were found, only {most} of them were ever committed"
        assert found >= (most if self._complete else least), f"{found} tokens were found, {most} are cached"
        if self._ample_host and self.cache.sizes().available:
            copied = self._match(ids, self._copied)
            assert found >= copied, f"{found} tokens were found, the host has {copied} and there are pages for more"
        full = found // self.context.page_size
        self.rows[row] = Open(tokens, salt, ids, found, full, self._firsts(found), full)
        self._count_touched(row)
        return found

    def grow(self, row: int, length: int) -> bool:
        """Reserves, writes and commits up to `length` tokens; a refusal must be justified and change nothing."""
        if not self._reserve(row, length):
            return False
        self._write(row, length)
        self._commit(row, length)
        return True

    def draft(self, row: int, drafts: Sequence[int], accepted: int, *, commits_first: bool) -> bool:
        """Reserves and writes so many drafts, of which the first `accepted` are right; the others are taken back."""
        state, size = self.rows[row], self.context.page_size
        length, kept = state.written + len(drafts), state.written + accepted
        if not self._reserve(row, length):
            return False
        for token in drafts[:accepted]:
            self.extend(row, token)
        self._write(row, kept)
        for group, array in self._storage:
            array[self._slots(row, group, kept, length)] = -1
        if commits_first:
            self._commit(row, kept)
        before, fewer = self.cache.sizes(), state.pages - -(-kept // size)
        self.cache.truncate(row, kept)
        freed = self.cache.sizes().free - before.free
        assert freed == fewer * len(self._groups), f"truncate freed {freed} pages of {fewer} in each group"
        state.pages -= fewer
        if not commits_first:
            self._commit(row, kept)
        return True

    def _reserve(self, row: int, length: int) -> bool:
        state, size = self.rows[row], self.context.page_size
        before, pages = self.cache.sizes(), self._pages()
        more = max(0, -(-length // size) - state.pages)
        need = more * len(self._groups)
        granted = self.cache.reserve(row, length)
        assert granted == (need <= before.available), (
            f"row {row} wants {need} more pages, {before.available} are available, and reserve returned {granted}"
        )
        if not granted:
            assert self.cache.sizes() == before, "a refused reserve changed the sizes"
            assert self._pages() == pages, "a refused reserve changed a table"
            return False
        if self.cache.sizes().cached < before.cached:
            ample = before.free >= self._tables.size and self.context.soft_pages is None  # all can grow
            assert not ample, f"prefixes were evicted though {before.free} pages were free"
            self._complete = False
        state.pages += more
        self._count_touched(row)
        return True

    def _commit(self, row: int, length: int) -> None:
        state = self.rows[row]
        self.cache.commit(row, state.tokens[:length])
        if length // self.context.page_size > state.full:
            self._filled(state, length)

    def _filled(self, state: Open, length: int) -> None:
        """What is known once a page more is full."""
        if self._shares:
            self._known |= self._of(state, length)
            self._copied |= self._of(state, length)
        state.firsts, state.full = self._firsts(length), length // self.context.page_size

    def extend(self, row: int, token: int) -> None:
        """A generated token."""
        state = self.rows[row]
        state.tokens = np.append(state.tokens, token)
        state.ids = self._prefixes.of(state.tokens, state.salt)

    def close(self, row: int) -> None:
        self.cache.close(row)
        del self.rows[row]

    def reset(self) -> None:
        """Forgets what is unused."""
        before = self.cache.sizes()
        freed = self.cache.reset()
        after = self.cache.sizes()
        assert freed == before.cached, f"reset freed {freed} pages of {before.cached} cached ones"
        assert (after.cached, after.owned) == (0, before.owned), f"after reset: {after}"
        self._known = self._held()
        self._copied.clear()

    def verify(self) -> None:
        """Sizes add up, the cache's own check passes, and each row reads back its own prefix."""
        self.cache.check()
        sizes = self.cache.sizes()
        assert min(sizes.free, sizes.cached, sizes.owned) >= 0, f"negative sizes: {sizes}"
        assert sizes.free + sizes.cached + sizes.owned == sizes.total == self.context.pages, f"pages are lost: {sizes}"
        used = {page for pages in self._pages().values() for page in pages}
        assert sizes.owned >= len(used), f"rows use {len(used)} pages, {sizes.owned} are owned"
        assert 0 <= sizes.host_cached <= sizes.host_total <= self.context.host_pages, f"host pages are lost: {sizes}"
        self._verify_touched()
        most = sum(state.pages - first for state in self.rows.values() for first in state.firsts)
        assert sizes.owned <= most, f"rows need {most} pages, {sizes.owned} are owned"
        for row, state in self.rows.items():
            for number, (group, array) in enumerate(self._storage, 1):
                low = self._groups[group].low(state.written)
                read = array[self._slots(row, group, low, state.written)]
                wrong = np.flatnonzero(read != state.ids[low : state.written] * number)
                assert not wrong.size, f"row {row} reads foreign keys and values at token {low + int(wrong[0])}"

    def _verify_touched(self) -> None:
        """Unused prefixes touch no more than `soft_pages`; room for rows to lie in one piece may cost half."""
        soft, touched = self.context.soft_pages, len(self._touched)
        if soft is not None:
            most = max(soft, (3 * self._most_owned + soft) // 2)
            assert touched <= most, f"{touched} pages were touched, {most} would do for the rows that were open at once"

    def _count_touched(self, row: int) -> None:
        self._touched.update(self._pages()[row])
        self._most_owned = max(self._most_owned, self.cache.sizes().owned)

    def _match(self, ids: Tokens, known: Held) -> int:
        """Tokens of the longest prefix of which each group has, out of `known`, what the token after it sees."""
        size = self.context.page_size
        ends = ids[size - 1 : len(ids) - 1 : size].tolist() if self._shares else []
        for pages in range(len(ends), 0, -1):
            firsts = self._firsts(pages * size)
            if all((ends[i], group) in known for group, first in enumerate(firsts) for i in range(first, pages)):
                return pages * size
        return 0

    def _of(self, state: Open, length: int) -> Held:
        """What a row holds of its first `length` tokens, as far as pages are full."""
        size = self.context.page_size
        ends = state.ids[size - 1 : length : size].tolist()
        return {(end, group) for group, first in enumerate(state.firsts) for end in ends[first:]}

    def _held(self) -> Held:
        return {one for state in self.rows.values() for one in self._of(state, state.full * self.context.page_size)}

    def _firsts(self, length: int) -> list[int]:
        """By group, the first page that is needed after `length` tokens."""
        return [group.first_page(length, self.context.page_size) for group in self._groups]

    def _pages(self) -> dict[int, list[int]]:
        """The pages that rows need, by row."""
        return {
            row: [
                page
                for group, first in enumerate(state.firsts)
                for page in self._tables[group, row, first : state.pages].tolist()
            ]
            for row, state in self.rows.items()
        }

    def _slots(self, row: int, group: int, start: int, stop: int) -> Tokens:
        size, positions = self.context.page_size, np.arange(start, stop)
        pages = self._tables[group, row, positions // size].astype(np.int64)
        assert pages.size == 0 or (pages.min() >= 0 and pages.max() < self.context.pages), f"row {row}: no such page"
        slots: Tokens = pages * size + positions % size
        return slots

    def _write(self, row: int, length: int) -> None:
        state = self.rows[row]
        for number, (group, array) in enumerate(self._storage, 1):
            array[self._slots(row, group, state.written, length)] = state.ids[state.written : length] * number
        state.written = max(state.written, length)


def _storage(cache: Cache, context: CacheContext, groups: Sequence[CacheGroup]) -> list[tuple[int, NDArray[Any]]]:
    """(group, numbers by slot): the storage of each layer, or one array for all groups where there are no layers."""
    if not cache.layers:
        plain = np.zeros(context.pages * context.page_size, dtype=np.int64)
        return [(group, plain) for group in range(len(groups))]
    group_of = {layer: number for number, group in enumerate(context.groups) for layer in group.layers}
    return [
        (group_of.get(number, 0), tensor.view(-1).numpy())
        for number, layer in enumerate(cache.layers)
        for tensor in (layer.keys, layer.values)
    ]
