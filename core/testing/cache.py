"""Does a cache strategy keep its promises? Random use is compared with a dictionary of prefixes.

class TestMine(CacheStrategyChecks):
    strategy = "mine"
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from maxserve.core.components import CacheStrategy
from maxserve.core.interfaces import Cache, CacheContext
from maxserve.core.nouns import CacheLayer
from maxserve.core.testing.resolve import resolve

if TYPE_CHECKING:
    Tokens = NDArray[np.int64]


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


@dataclass(slots=True)
class Open:
    """A row in use: its tokens, the numbers of their prefixes, and how many are written and may be reserved."""

    tokens: Tokens
    salt: str
    ids: Tokens
    written: int
    pages: int
    committed: set[int] = field(default_factory=set)


class Model:
    """Drives a cache and predicts it. Any difference is an AssertionError.

    The storage behind the cache is a plain array: every token's slot gets the number of its prefix, so a row that
    reads another number than its own reads somebody else's keys and values.
    """

    def __init__(self, cache: Cache, context: CacheContext, *, shares: bool) -> None:
        self.cache = cache
        self.context = context
        self.rows: dict[int, Open] = {}
        self._shares = shares
        self._prefixes = Prefixes()
        self._known: set[int] = set()  # prefixes that end a page and were committed at some time
        self._complete = True  # nothing can have been evicted yet
        self._storage = np.zeros(context.pages * context.page_size, dtype=np.int64)

    def open(self, row: int, tokens: Tokens, salt: str) -> int:
        """Opens a row; the match must be what the dictionary says."""
        ids = self._prefixes.of(tokens, salt)
        before = self.cache.sizes()
        peeked = self.cache.peek(tokens, salt)
        assert self.cache.sizes() == before, "peek changed the sizes"
        found = self.cache.open(row, tokens, salt)
        assert found == peeked, f"peek said {peeked} tokens, open found {found}"
        assert 0 <= found < len(tokens), f"{found} tokens of {len(tokens)} were found: one must stay to be computed"
        most, least = self._match(ids, self._known), self._match(ids, self._held())
        assert found <= most, f"{found} tokens were found, only {most} of them were ever committed"
        assert found >= (most if self._complete else least), f"{found} tokens were found, {most} are cached"
        self.rows[row] = Open(tokens, salt, ids, found, -(-found // self.context.page_size))
        self.rows[row].committed.update(self._ends(ids[:found]))
        return found

    def grow(self, row: int, length: int) -> bool:
        """Reserves, writes and commits up to `length` tokens; a refusal must be justified and change nothing."""
        state, size = self.rows[row], self.context.page_size
        before, tables = self.cache.sizes(), self._tables()
        need = max(0, -(-length // size) - state.pages)
        granted = self.cache.reserve(row, length)
        assert granted == (need <= before.available), (
            f"row {row} wants {need} more pages, {before.available} are available, and reserve said {granted}"
        )
        if not granted:
            assert self.cache.sizes() == before, "a refused reserve changed the sizes"
            assert self._tables() == tables, "a refused reserve changed a table"
            return False
        if self.cache.sizes().cached < before.cached:
            ample = before.free >= self.cache.tables.size  # every row could grow to its longest
            assert not ample, f"prefixes were evicted though {before.free} pages were free"
            self._complete = False
        state.pages += need
        self._write(row, length)
        self.cache.commit(row, state.tokens[:length])
        if self._shares:
            state.committed.update(self._ends(state.ids[:length]))
            self._known |= state.committed
        return True

    def extend(self, row: int, token: int) -> None:
        """A generated token."""
        state = self.rows[row]
        state.tokens = np.append(state.tokens, token)
        state.ids = self._prefixes.of(state.tokens, state.salt)

    def close(self, row: int) -> None:
        self.cache.close(row)
        del self.rows[row]

    def reset(self) -> None:
        """Forgets what nobody uses."""
        before = self.cache.sizes()
        freed = self.cache.reset()
        after = self.cache.sizes()
        assert freed == before.cached, f"reset freed {freed} pages of {before.cached} cached ones"
        assert (after.cached, after.owned) == (0, before.owned), f"after reset: {after}"
        self._known = self._held()

    def verify(self) -> None:
        """Sizes add up, the cache's own check passes, and each row reads back its own prefix."""
        self.cache.check()
        sizes = self.cache.sizes()
        assert min(sizes.free, sizes.cached, sizes.owned) >= 0, f"negative sizes: {sizes}"
        assert sizes.free + sizes.cached + sizes.owned == sizes.total == self.context.pages, f"pages are lost: {sizes}"
        used = {page for table in self._tables().values() for page in table}
        assert sizes.owned >= len(used), f"rows use {len(used)} pages, {sizes.owned} are owned"
        for row, state in self.rows.items():
            read = self._storage[self._slots(row, 0, state.written)]
            wrong = np.flatnonzero(read != state.ids[: state.written])
            assert not wrong.size, f"row {row} reads foreign keys and values at token {wrong[0]}"

    def _match(self, ids: Tokens, known: set[int]) -> int:
        size, found = self.context.page_size, 0
        if self._shares:
            while found + size < len(ids) and int(ids[found + size - 1]) in known:
                found += size
        return found

    def _ends(self, ids: Tokens) -> list[int]:
        size = self.context.page_size
        return [int(i) for i in ids[size - 1 :: size]]

    def _held(self) -> set[int]:
        return {i for state in self.rows.values() for i in state.committed}

    def _tables(self) -> dict[int, list[int]]:
        return {row: self.cache.tables[row, : state.pages].tolist() for row, state in self.rows.items()}

    def _slots(self, row: int, start: int, stop: int) -> Tokens:
        size, positions = self.context.page_size, np.arange(start, stop)
        pages = self.cache.tables[row, positions // size].astype(np.int64)
        assert pages.size == 0 or (pages.min() >= 0 and pages.max() < self.context.pages), f"row {row}: no such page"
        slots: Tokens = pages * size + positions % size
        return slots

    def _write(self, row: int, length: int) -> None:
        state = self.rows[row]
        self._storage[self._slots(row, state.written, length)] = state.ids[state.written : length]
        state.written = max(state.written, length)


class CacheStrategyChecks:
    """Subclass it and name a registered `strategy`, or give the `component` itself."""

    strategy: ClassVar[str] = ""
    component: ClassVar[CacheStrategy | None] = None
    seeds: ClassVar[range] = range(8)
    operations: ClassVar[int] = 400

    def declared(self) -> CacheStrategy:
        """The component under test."""
        return resolve(CacheStrategy, self.strategy, self.component)

    def context(self, **changes: Any) -> CacheContext:
        """A small cache without storage: four rows, 24 pages of 4 tokens."""
        import torch

        given: dict[str, Any] = {"layers": (), "pages": 24, "page_size": 4, "rows": 4, "max_length": 64}
        return CacheContext(**(given | {"dtype": torch.float32, "device": torch.device("cpu")} | changes))

    def model(self, **changes: Any) -> Model:
        """A fresh cache with its model."""
        declared, context = self.declared(), self.context(**changes)
        build: Callable[[CacheContext], Cache] = resolve_build(declared)
        shares = declared.shares_prefixes and context.share_prefixes
        return Model(build(context), context, shares=shares)

    def test_tables_and_storage_have_their_shapes(self) -> None:
        import torch

        layers = (CacheLayer(kv_heads=2, head_dim=8), CacheLayer(kv_heads=1, head_dim=4))
        context = self.context(layers=layers, dtype=torch.bfloat16)
        cache = resolve_build(self.declared())(context)
        assert cache.tables.dtype == np.int32
        assert cache.tables.shape == (4, 16)
        assert len(cache.layers) == len(layers)
        for layer, made in zip(layers, cache.layers, strict=True):
            for tensor in (made.keys, made.values):
                assert tensor.shape == (24, 4, layer.kv_heads, layer.head_dim)
                assert tensor.dtype == torch.bfloat16
                assert tensor.is_contiguous()
                assert torch.isfinite(tensor).all(), "fresh storage holds values that no mask can remove"
        memory = [tensor.data_ptr() for made in cache.layers for tensor in (made.keys, made.values)]
        assert len(set(memory)) == len(memory), "layers share memory"

    def test_everything_can_be_used_by_one_row(self) -> None:
        model = self.model(pages=16)
        model.open(0, np.arange(64), "")
        assert model.grow(0, 64)
        model.verify()
        assert model.cache.sizes().available == 0

    def test_a_prefix_is_found_again(self) -> None:
        model = self.model()
        if not model._shares:
            return
        tokens = np.arange(10)
        assert model.open(0, tokens, "") == 0
        model.grow(0, 10)
        assert model.open(1, tokens, "") == 8, "two full pages of an open row were not found"
        model.close(0)
        model.close(1)
        assert model.open(2, tokens[:8], "") == 4, "the last token must stay to be computed"
        model.verify()

    def test_salts_do_not_share(self) -> None:
        model = self.model()
        tokens = np.arange(12)
        model.open(0, tokens, "one")
        model.grow(0, 12)
        assert model.open(1, tokens, "two") == 0
        assert model.open(2, tokens, "") == 0
        model.verify()

    def test_equal_rows_at_once_stay_right(self) -> None:
        model = self.model()
        for row in range(4):
            model.open(row, np.arange(13), "")
        for length in (3, 4, 9, 13):
            for row in range(4):
                assert model.grow(row, length)
                model.verify()
        for row in (2, 0, 3, 1):
            model.close(row)
            model.verify()

    def test_sharing_can_be_switched_off(self) -> None:
        model = self.model(share_prefixes=False)
        for _ in range(3):
            assert model.open(0, np.arange(12), "") == 0
            model.grow(0, 12)
            model.close(0)
        model.verify()
        assert model.cache.sizes().free == 24

    def test_random_use_without_eviction(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model(pages=1024), operations=self.operations // 2)

    def test_random_use_with_eviction(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model())

    def test_random_use_without_sharing(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model(share_prefixes=False), operations=self.operations // 2)

    def _random_use(self, rng: random.Random, model: Model, operations: int | None = None) -> None:
        for act in _acts(rng, model, operations or self.operations):
            act()
            model.verify()
        for row in list(model.rows):
            model.close(row)
        model.verify()
        assert model.cache.sizes().owned == 0, "all rows are closed, yet pages are owned"


def resolve_build(component: CacheStrategy) -> Callable[[CacheContext], Cache]:
    """The component's build function."""
    from maxserve.core.testing.resolve import load

    build: Callable[[CacheContext], Cache] = load(component.build)
    return build


def _acts(rng: random.Random, model: Model, count: int) -> Iterator[Callable[[], Any]]:
    """What an engine might do next, `count` times."""
    for _ in range(count):
        free = [row for row in range(model.context.rows) if row not in model.rows]
        chance = rng.random()
        if free and (not model.rows or chance < 0.25):
            yield _opening(rng, model, free[0])
        elif chance < 0.85:
            yield _growing(rng, model, rng.choice(list(model.rows)))
        elif chance < 0.99:
            yield partial(model.close, rng.choice(list(model.rows)))
        else:
            yield model.reset


def _opening(rng: random.Random, model: Model, row: int) -> Callable[[], Any]:
    length = rng.randrange(1, model.context.max_length * 3 // 4)
    salt = rng.choice(["", "", "salt"])
    tokens = np.array([rng.random() < 0.1 for _ in range(length)], dtype=np.int64)  # few kinds: many equal prefixes
    return lambda: model.open(row, tokens, salt)


def _growing(rng: random.Random, model: Model, row: int) -> Callable[[], Any]:
    """A chunk of the prompt, or a generated token; a row that cannot grow is preempted, one that is full ends."""
    state = model.rows[row]
    left = len(state.tokens) - state.written
    length = state.written + rng.randint(1, left) if left else state.written + 1

    def act() -> None:
        if length > model.context.max_length:
            model.close(row)
            return
        if not left:
            model.extend(row, int(rng.random() < 0.1))
        if not model.grow(row, length):
            model.close(row)

    return act
