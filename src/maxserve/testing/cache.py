"""Checks of cache strategies. Random use is compared with a dictionary of prefixes.

class TestMine(CacheStrategyChecks):
    strategy = "mine"
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np

from maxserve.core.interfaces.cache import (
    Cache,
    CacheContext,
    CacheGroup,
    CacheLayer,
    CacheStrategy,
    GroupedCache,
    SupportsListeners,
)
from maxserve.testing.cache_model import AMPLE, ONES, Model
from maxserve.testing.resolve import resolve


class CacheStrategyChecks:
    """Subclass it and name a registered `strategy`, or give the `component` itself."""

    strategy: ClassVar[str] = ""
    component: ClassVar[CacheStrategy | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    seeds: ClassVar[range] = range(8)
    operations: ClassVar[int] = 400

    def declared(self) -> CacheStrategy:
        """The component under test."""
        return resolve(CacheStrategy, self.strategy, self.component)

    def context(self, **changes: Any) -> CacheContext:
        """A small cache without storage: four rows, 24 pages of 4 tokens."""
        import torch

        given: dict[str, Any] = {
            "sections": self.sections,
            "layers": (),
            "pages": 24,
            "page_size": 4,
            "rows": 4,
            "max_length": 64,
        }
        return CacheContext(**(given | {"dtype": torch.float32, "device": torch.device("cpu")} | changes))

    def model(self, **changes: Any) -> Model:
        """A fresh cache with its model."""
        declared, context = self.declared(), self.context(**changes)
        build: Callable[[CacheContext], Cache] = resolve_build(declared)
        shares = declared.shares_prefixes and context.share_prefixes
        return Model(build(context), context, shares=shares, copies=declared.host_tier)

    def test_tables_and_storage_have_their_shapes(self) -> None:
        import torch

        layers = (CacheLayer(kv_heads=2, head_dim=8), CacheLayer(kv_heads=1, head_dim=4))
        context = self.context(layers=layers, dtype=torch.bfloat16)
        cache = resolve_build(self.declared())(context)
        assert cache.block_tables.dtype == np.int32
        assert cache.block_tables.shape == (4, 16)
        assert len(cache.layers) == len(layers)
        for layer, made in zip(layers, cache.layers, strict=True):
            for tensor in (made.keys, made.values):
                assert tensor.shape == (24, 4, layer.kv_heads, layer.head_dim)
                assert tensor.dtype == torch.bfloat16
                assert tensor.is_contiguous()
                assert torch.isfinite(tensor).all(), "fresh storage holds values that no mask can remove"
        memory = [tensor.data_ptr() for made in cache.layers for tensor in (made.keys, made.values)]
        assert len(set(memory)) == len(memory), "layers share memory"

    def test_groups_share_storage(self) -> None:
        """The n-th layers of all groups, whose pages are never the same."""
        for groups in self._groups():
            layers = (CacheLayer(kv_heads=2, head_dim=8),) * (1 + max(max(group.layers) for group in groups))
            cache = resolve_build(self.declared())(self.context(layers=layers, groups=groups))
            assert cast("GroupedCache", cache).group_block_tables.shape == (len(groups), 4, 16)
            assert np.shares_memory(cache.block_tables, cast("GroupedCache", cache).group_block_tables[0])
            places = {layer: place for group in groups for place, layer in enumerate(group.layers)}
            memory = {
                (places[layer], made.keys.data_ptr(), made.values.data_ptr()) for layer, made in enumerate(cache.layers)
            }
            assert len(memory) == max(places.values()) + 1, "layers in the same place of their groups have own memory"
            assert len({address for _, *both in memory for address in both}) == 2 * len(memory), "layers share memory"

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

    def test_rejected_drafts_give_their_pages_back(self) -> None:
        for accepted in range(10):
            for commits_first in (False, True):
                model = self.model()
                model.open(0, np.arange(6), "")
                assert model.grow(0, 6)
                assert model.draft(0, range(6, 15), accepted, commits_first=commits_first)
                model.verify()
                model.extend(0, 99)
                assert model.grow(0, 7 + accepted)
                model.verify()
                model.close(0)
                model.verify()

    def test_random_use_without_eviction(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model(pages=1024), operations=self.operations // 2)

    def test_random_use_with_eviction(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model())

    def test_random_use_without_sharing(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model(share_prefixes=False), operations=self.operations // 2)

    def test_random_use_with_an_ample_host(self) -> None:
        """What the device forgot is found on the host, with the keys and values that were written."""
        for seed in self.seeds if self.declared().host_tier else ():
            self._random_use(random.Random(seed), self.model(host_pages=AMPLE, layers=ONES))

    def test_random_use_with_a_small_host(self) -> None:
        for seed in self.seeds if self.declared().host_tier else ():
            self._random_use(random.Random(seed), self.model(host_pages=7, layers=ONES))

    def test_the_host_finds_what_the_device_forgot(self) -> None:
        if not self.declared().host_tier:
            return
        model, tokens = self.model(pages=6, max_length=24, host_pages=AMPLE, layers=ONES), np.arange(17)
        for offset in (0, 100):
            model.open(0, tokens + offset, "")
            assert model.grow(0, 17)
            model.close(0)
        assert model.open(0, tokens, "") == 16
        model.verify()
        model.close(0)
        assert model.open(0, tokens, "other") == 0
        model.close(0)
        model.reset()
        assert model.open(0, tokens, "") == 0

    def test_random_use_with_memory_to_save(self) -> None:
        for seed in self.seeds:
            self._random_use(random.Random(seed), self.model(pages=1024, soft_pages=16))

    def test_open_rows_may_have_what_prefixes_may_not(self) -> None:
        model = self.model(pages=16, soft_pages=2)
        assert model.cache.sizes().free == 16
        model.open(0, np.arange(64), "")
        assert model.grow(0, 64)
        model.verify()

    def test_listeners_hear_of_all_that_is_found(self) -> None:
        """What a router concludes from stored and removed pages is what `peek` says, for caches that tell of them."""
        for seed in self.seeds:
            model, heard, rng = self.model(), _Heard(), random.Random(seed)
            if not isinstance(model.cache, SupportsListeners):
                return
            model.cache.listen(heard)
            for act in _acts(rng, model, self.operations // 2):
                act()
                model.verify()
                for state in model.rows.values():
                    known = heard.tokens(state.tokens[:-1], state.salt, model.context.page_size)
                    assert known == model.cache.peek(state.tokens, state.salt), "what was heard is not what is found"

    def test_random_use_of_groups(self) -> None:
        for seed, groups in self._seeded_groups():
            self._random_use(random.Random(seed), self.model(groups=groups, pages=24 * len(groups)))

    def test_random_use_of_groups_without_eviction(self) -> None:
        for seed, groups in self._seeded_groups():
            self._random_use(random.Random(seed), self.model(groups=groups, pages=2048), self.operations // 2)

    def test_random_use_of_groups_with_storage(self) -> None:
        for seed, groups in self._seeded_groups():
            layers = (CacheLayer(kv_heads=1, head_dim=1),) * (1 + max(max(group.layers) for group in groups))
            model = self.model(groups=groups, layers=layers, pages=24 * len(groups), soft_pages=16)
            self._random_use(random.Random(seed), model, self.operations // 2)

    def test_random_use_of_groups_without_sharing(self) -> None:
        for seed, groups in self._seeded_groups():
            model = self.model(groups=groups, pages=24 * len(groups), share_prefixes=False)
            self._random_use(random.Random(seed), model, self.operations // 2)

    def test_a_window_keeps_what_it_sees(self) -> None:
        """Pages it has passed are given back, and can still be found as long as their room is not needed."""
        if self.declared().groups is None:
            return
        model, tokens = self.model(groups=(CacheGroup(layers=(0,), window=9),), max_length=400), np.arange(400)
        model.open(0, tokens, "")
        for length in range(8, 401, 4):
            assert model.grow(0, length)
            model.verify()
            assert model.cache.sizes().owned <= 3, "a window of 9 tokens lies in 3 pages of 4 tokens at most"
        assert model.open(1, tokens[:50], "") == (48 if model._shares and model._complete else 0)

    def test_a_prefix_is_found_where_all_windows_have_it(self) -> None:
        if self.declared().groups is None:
            return
        whole, window = CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=8)
        model, tokens = self.model(groups=(whole, window), pages=24), np.arange(40)
        model.open(0, tokens, "")
        for length in range(4, 41, 4):
            assert model.grow(0, length)
        model.close(0)
        model.open(1, np.arange(100, 148), "")
        assert model.grow(1, 44)
        model.verify()
        model.close(1)
        model.open(2, tokens, "")
        model.verify()

    def _seeded_groups(self) -> Iterator[tuple[int, tuple[CacheGroup, ...]]]:
        """A seed and groups, in turn."""
        groups = self._groups()
        return ((seed, groups[seed % len(groups)]) for seed in (self.seeds if groups else ()))

    def _groups(self) -> Sequence[tuple[CacheGroup, ...]]:
        """Groups of layers such as models have; none for strategies that do not declare `groups`."""
        whole, near = CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=1)
        mixed = (CacheGroup(layers=(1, 4)), *(CacheGroup(layers=each, window=11) for each in ((0, 2), (3,))))
        chunks = (CacheGroup(layers=(0,)), CacheGroup(layers=(1,), chunk=10), CacheGroup(layers=(2,), window=6))
        alone = (CacheGroup(layers=(0, 1), window=13),)
        return (mixed, chunks, alone, (whole, near)) if self.declared().groups is not None else ()

    def _random_use(self, rng: random.Random, model: Model, operations: int | None = None) -> None:
        for act in _acts(rng, model, operations or self.operations):
            act()
            model.verify()
        for row in list(model.rows):
            model.close(row)
        model.verify()
        assert model.cache.sizes().owned == 0, "all rows are closed, yet pages are owned"


class _Heard:
    """A listener that knows which pages there are, each by the one before, its tokens and its salt."""

    def __init__(self) -> None:
        self._known: dict[tuple[int | None, bytes, str], int] = {}

    def stored(
        self, tier: str, page: int, parent: int | None, tokens: bytes, salt: str, group: CacheGroup | None
    ) -> None:
        key = (parent, tokens, salt)
        assert (tier, group) == ("device", None), "neither a host tier nor groups were asked for"
        assert key not in self._known, "a page was stored twice"
        assert page not in self._known.values(), "two pages have one number"
        assert parent is None or parent in self._known.values(), "a page was stored behind one that is not there"
        self._known[key] = page

    def removed(self, tier: str, page: int, salt: str, group: CacheGroup | None) -> None:
        (key,) = (key for key, known in self._known.items() if known == page)
        assert key[2] == salt, "a page was removed under another salt than it was stored"
        del self._known[key]

    def cleared(self) -> None:
        self._known.clear()

    def tokens(self, tokens: Any, salt: str, size: int) -> int:
        """How many leading tokens there are, in full pages of `size`."""
        page: int | None = None
        for start in range(0, len(tokens) - size + 1, size):
            page = self._known.get((page, np.asarray(tokens[start : start + size], np.int64).tobytes(), salt))
            if page is None:
                return start
        return len(tokens) // size * size


def resolve_build(component: CacheStrategy) -> Callable[[CacheContext], Cache]:
    """The component's build function."""
    from maxserve.testing.resolve import load

    build: Callable[[CacheContext], Cache] = load(component.build)
    return build


def _acts(rng: random.Random, model: Model, count: int) -> Iterator[Callable[[], Any]]:
    """What an engine might do next, `count` times."""
    for _ in range(count):
        free = [row for row in range(model.context.rows) if row not in model.rows]
        chance = rng.random()
        if free and (not model.rows or chance < 0.25):
            yield _opening(rng, model, free[0])
        elif chance < 0.75:
            yield _growing(rng, model, rng.choice(list(model.rows)))
        elif chance < 0.85:
            yield _drafting(rng, model, rng.choice(list(model.rows)))
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


def _drafting(rng: random.Random, model: Model, row: int) -> Callable[[], Any]:
    """Some drafts behind all the row's tokens; where they cannot be, the row grows."""
    state, count = model.rows[row], rng.randint(1, 9)
    length = state.written + count
    if state.written < len(state.tokens) or length > model.context.max_length:
        return _growing(rng, model, row)
    drafts, accepted = [int(rng.random() < 0.1) for _ in range(count)], rng.randint(0, count)
    return partial(model.draft, row, drafts, accepted, commits_first=rng.random() < 0.5)
