"""The paged cache conforms, shares what it should, and keeps a sequence's pages together."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray

from maxserve.core.interfaces.cache import CacheContext, CacheGroup, CacheLayer, CacheStrategy, Node, NodeOrder
from maxserve.core.interfaces.errors import SettingsError
from maxserve.plugins.cache.paged import LeastFrequentlyUsed, PagedCache, paged_cache
from maxserve.plugins.cache.paged.groups import cache_groups
from maxserve.plugins.cache.policies import FirstInFirstOut, LeastRecentlyUsed, MostRecentlyUsed
from maxserve.plugins.cache.settings import PagedSettings
from maxserve.testing.cache import CacheStrategyChecks

Make = Callable[..., PagedCache]


class TestPaged(CacheStrategyChecks):
    strategy = "paged"


class TestPagedWithAnotherPolicy(CacheStrategyChecks):
    component = CacheStrategy(name="mine", build=lambda context: PagedCache(context, LeastFrequentlyUsed()))


class TestWindowedWithAnotherPolicy(CacheStrategyChecks):
    component = CacheStrategy(
        name="mine", build=lambda context: paged_cache(context, FirstInFirstOut()), host_tier=True, groups=cache_groups
    )
    seeds = range(100, 104)


@pytest.fixture
def make() -> Make:
    def make(policy: NodeOrder | None = None, **changes: Any) -> PagedCache:
        given: dict[str, Any] = {"layers": (), "pages": 16, "page_size": 4, "rows": 4, "max_length": 64}
        given |= {"dtype": torch.float32, "device": torch.device("cpu")} | changes
        return PagedCache(CacheContext(**given), policy)

    return make


def fill(cache: PagedCache, row: int, tokens: NDArray[np.int64], salt: str = "") -> int:
    """Opens a row and computes all of it."""
    found = cache.open(row, tokens, salt)
    assert cache.reserve(row, len(tokens))
    cache.commit(row, tokens)
    cache.check()
    return found


def prompt(seed: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 1000, length)


def test_equal_pages_of_two_rows_become_one(make: Make) -> None:
    cache, tokens = make(), prompt(0, 10)
    for row in (0, 1):
        cache.open(row, tokens, "")
        assert cache.reserve(row, 10)
    assert cache.sizes().owned == 6
    for row in (0, 1):
        cache.commit(row, tokens)
        cache.check()
    assert cache.sizes().owned == 4
    assert cache.block_tables[0, :2].tolist() == cache.block_tables[1, :2].tolist()
    assert cache.block_tables[0, 2] != cache.block_tables[1, 2]


def test_generated_pages_are_shared_too(make: Make) -> None:
    cache, tokens = make(), prompt(0, 15)
    cache.open(0, tokens[:6], "")
    for length in range(6, 16):
        assert cache.reserve(0, length)
        cache.commit(0, tokens[:length])
    cache.close(0)
    assert cache.peek(tokens, "") == 12


def test_a_row_evicts_only_what_nobody_uses(make: Make) -> None:
    cache = make()
    fill(cache, 0, prompt(0, 32))
    fill(cache, 1, prompt(1, 24))
    cache.close(1)
    cache.open(2, prompt(2, 40), "")
    assert not cache.reserve(2, 40)
    assert cache.peek(prompt(1, 24), "") == 20
    assert cache.reserve(2, 32)
    cache.check()
    assert cache.peek(prompt(0, 32), "") == 28
    assert cache.peek(prompt(1, 24), "") == 0


def test_the_least_recently_used_prefix_goes_first_and_its_end_before_its_start(make: Make) -> None:
    cache = make(rows=1, pages=12)
    for seed in (0, 1, 2):
        fill(cache, 0, prompt(seed, 16))
        cache.close(0)
    fill(cache, 0, prompt(0, 16))  # used again: 1 is the oldest now
    cache.close(0)
    cache.open(0, prompt(3, 12), "")
    assert cache.reserve(0, 12)
    found = [cache.peek(prompt(seed, 17), "") for seed in (0, 1, 2)]
    assert found[:2] == [16, 0]
    assert found[2] in (4, 8, 12)


def test_the_least_often_found_prefix_goes_first(make: Make) -> None:
    cache = make(LeastFrequentlyUsed(), rows=1, pages=15)
    for seed in (0, 0, 0, 1, 1, 2):
        fill(cache, 0, prompt(seed, 17))
        cache.close(0)
    cache.open(0, prompt(3, 28), "")
    assert cache.reserve(0, 28)
    assert [cache.peek(prompt(seed, 17), "") for seed in (0, 1, 2)] == [16, 16, 0]


def test_what_came_first_goes_first_although_it_was_used_again(make: Make) -> None:
    cache = make(FirstInFirstOut(), rows=1, pages=12)
    for seed in (0, 1, 0, 2):
        fill(cache, 0, prompt(seed, 16))
        cache.close(0)
    cache.open(0, prompt(3, 16), "")
    assert cache.reserve(0, 16)
    assert [cache.peek(prompt(seed, 17), "") for seed in (0, 1, 2)] == [0, 16, 16]


def test_of_prefixes_in_turn_some_are_found_when_the_last_used_goes_first(make: Make) -> None:
    found: dict[str, int] = {}
    for name, policy in (("lru", LeastRecentlyUsed()), ("mru", MostRecentlyUsed())):
        cache = make(policy, rows=1, pages=13)
        for number in range(12):
            found[name] = found.get(name, 0) + fill(cache, 0, prompt(number % 4, 17))
            cache.close(0)
    assert found["lru"] == 0 < found["mru"]


@pytest.mark.parametrize("policy", [FirstInFirstOut, LeastRecentlyUsed])
def test_a_policy_is_chosen_by_name(make: Make, policy: type[NodeOrder]) -> None:
    policies = {"fifo": FirstInFirstOut, "lru": LeastRecentlyUsed}
    name = next(name for name, made in policies.items() if made is policy)
    cache = make(sections={PagedSettings: PagedSettings(eviction=name)}, eviction_policies=policies)
    assert type(cache._tree._order._policy) is policy


def test_a_policy_that_nobody_declares_is_refused(make: Make) -> None:
    with pytest.raises(SettingsError, match=r"--paged\.eviction lrv: no eviction policy is called so; there are: lru"):
        make(sections={PagedSettings: PagedSettings(eviction="lrv")})


class Seen:
    """Notes what policies see of each page."""

    def __init__(self) -> None:
        self.nodes: dict[int, tuple[str, str, bool]] = {}

    def key(self, node: Node) -> tuple[float, ...]:
        self.nodes[node.tokens] = (node.salt, node.user, node.pinned)
        return (float(node.pinned), node.last_used)


@pytest.mark.parametrize("windowed", [False, True])
def test_policies_see_salt_user_and_pin_mark_of_a_page(make: Make, windowed: bool) -> None:
    seen = Seen()
    context: dict[str, Any] = {"layers": (), "pages": 16, "page_size": 4, "rows": 4, "max_length": 64}
    context |= {"dtype": torch.float32, "device": torch.device("cpu")}
    groups = (CacheGroup(layers=()),) if windowed else ()
    cache = paged_cache(CacheContext(**context, groups=groups), seen)
    for user, pinned, length in (("ann", False, 4), ("bob", True, 8), ("cem", False, 12)):
        cache.open(0, prompt(0, length + 1), "salt")
        cache.tag(0, user, pinned)  # type: ignore[attr-defined]
        assert cache.reserve(0, length)
        cache.commit(0, prompt(0, length))
        cache.close(0)
        cache.check()
    cache.reset()
    assert seen.nodes == {4: ("salt", "ann", True), 8: ("salt", "bob", True), 12: ("salt", "cem", False)}


def test_an_unknown_policy_is_refused_with_those_there_are(max_cli: Callable[..., Any]) -> None:
    ran = max_cli("serve", "--paged.eviction", "lruu")
    assert ran.status == 2
    assert "no eviction policy is called 'lruu' (did you mean" in ran.err
    assert "there are: fifo, lfu, lru, mru" in ran.err


def test_a_strategy_with_its_own_policy_refuses_another_by_name(make: Make) -> None:
    chosen = {PagedSettings: PagedSettings(eviction="lfu")}
    with pytest.raises(SettingsError, match=r"--paged\.eviction lfu: the chosen cache strategy has an order"):
        make(LeastRecentlyUsed(), sections=chosen)


def test_a_policy_of_the_author_decides(make: Make) -> None:
    class LargestPageFirst:
        def key(self, node: Node) -> tuple[float, ...]:
            return (-node.page,)

    cache = make(LargestPageFirst(), rows=1, pages=8)
    for seed in (0, 1):
        fill(cache, 0, prompt(seed, 16))
        cache.close(0)
    last = max(entry.page for entry in cache._tree.entries())
    cache.open(0, prompt(2, 4), "")
    assert cache.reserve(0, 4)
    assert last not in {entry.page for entry in cache._tree.entries()}


def test_reset_keeps_what_is_in_use(make: Make) -> None:
    cache = make()
    fill(cache, 0, prompt(0, 16))
    fill(cache, 1, prompt(1, 16))
    cache.close(1)
    assert cache.reset() == 4
    cache.check()
    assert cache.peek(prompt(0, 16), "") == 12
    assert cache.peek(prompt(1, 16), "") == 0


def test_a_salt_leaves_nothing_behind(make: Make) -> None:
    cache = make()
    for number in range(50):
        fill(cache, 0, prompt(number, 9), salt=f"user {number}")
        cache.close(0)
    cache.reset()
    assert not cache._tree._roots


def test_more_than_a_row_holds_is_refused(make: Make) -> None:
    cache = make(pages=64)
    cache.open(0, prompt(0, 4), "")
    with pytest.raises(ValueError, match="a row holds 64"):
        cache.reserve(0, 65)


@pytest.mark.parametrize("row", [0, -1])
def test_a_row_that_is_not_open_is_our_own_mistake(make: Make, row: int) -> None:
    with pytest.raises(AssertionError, match="not open"):
        make().close(row)


def test_check_sees_a_wrong_table(make: Make) -> None:
    cache = make()
    fill(cache, 0, prompt(0, 16))
    cache.block_tables[0, 1] += 1
    with pytest.raises(AssertionError, match="its table says"):
        cache.check()


def test_check_sees_a_lost_page(make: Make) -> None:
    cache = make()
    fill(cache, 0, prompt(0, 16))
    cache._pool.take(1, -1, 1)
    with pytest.raises(AssertionError, match="lost"):
        cache.check()


def test_check_sees_a_miscounted_user(make: Make) -> None:
    cache = make()
    fill(cache, 0, prompt(0, 16))
    cache._tree.entries()[0].users += 1
    with pytest.raises(AssertionError, match="users"):
        cache.check()


def runs(table: NDArray[np.int32]) -> int:
    return 1 + int((np.diff(table) != 1).sum())


@pytest.mark.parametrize(("share", "most"), [(False, 1.1), (True, 2.0)])
def test_pages_of_a_sequence_lie_together_while_many_grow(make: Make, share: bool, most: float) -> None:
    """Also when the pool is full of cached prefixes, so that every new page is an evicted one."""
    rng, rows = random.Random(0), 16
    cache = make(pages=2048, page_size=16, rows=rows, max_length=1024, share_prefixes=share)
    live: dict[int, tuple[NDArray[np.int64], int]] = {}
    seen: list[int] = []
    for step in range(4000):
        for row in range(rows):
            if row not in live:
                tokens = prompt(rng.randrange(10**9), rng.randint(150, 900))
                cache.open(row, tokens, "")
                live[row] = (tokens, rng.randint(50, len(tokens)))
                break
        for row, (tokens, length) in list(live.items()):
            assert cache.reserve(row, length)
            cache.commit(row, tokens[:length])
            live[row] = (tokens, length + 1)
            if length == len(tokens):
                seen.append(runs(cache.block_tables[row, : -(-length // 16)]))
                cache.close(row)
                del live[row]
        if step % 500 == 0:
            cache.check()
    assert len(seen) > 100
    assert np.mean(seen) <= most


def test_prefixes_nobody_uses_touch_no_fresh_pages_but_rows_may_have_all(make: Make) -> None:
    cache = make(pages=512, page_size=16, rows=8, max_length=1024, soft_pages=64)
    touched: set[int] = set()
    found: list[int] = []
    for number in range(200):
        row = number % 4
        if number >= 4:
            touched.update(cache.block_tables[row, :12].tolist())
            found.append(runs(cache.block_tables[row, :12]))
            cache.close(row)
        fill(cache, row, prompt(number, 192))
    assert len(touched) <= 64
    assert np.mean(found) < 4
    assert cache.sizes().total == 512
    assert cache.sizes().free == 512 - 64
    for row in range(4, 8):
        cache.open(row, prompt(row + 1000, 1024), "")
        assert cache.reserve(row, 1024)  # 256 pages beside the 48 of those that run
    assert cache.sizes().owned == 4 * 12 + 4 * 64
    cache.check()


@pytest.mark.skipif(sys.platform != "linux", reason="where memory goes back when it is asked to")
@pytest.mark.parametrize("windows", [False, True])
def test_memory_of_free_pages_goes_back(windows: bool) -> None:
    """And is zeros; what rows hold and what is cached stays as it is."""
    layer, page = CacheLayer(kv_heads=2, head_dim=64), 8  # 4 KiB of keys in a page
    groups = (CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=64)) if windows else ()
    cache = paged_cache(
        CacheContext(
            layers=(layer, layer),
            groups=groups,
            pages=4096,
            page_size=page,
            rows=2,
            max_length=8192,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
    )
    short, long = prompt(0, 32), prompt(1, 8000)
    for row, tokens in enumerate((short, long)):
        cache.open(row, tokens, str(row))
        assert cache.reserve(row, len(tokens))
    parts = {part.data_ptr(): part for each in cache.layers for part in each.parts}.values()
    held = cache.block_tables[0, :4].tolist()
    for part in parts:
        part.fill_(0.0)  # takes its memory
        part[held] = 1.0
    full = psutil.Process().memory_info().rss
    cache.commit(0, short)
    cache.close(0)
    cache.close(1)
    cache.give_back()
    cache.check()
    size = sum(part.nbytes for part in parts)
    assert psutil.Process().memory_info().rss < full - 0.9 * size
    assert all((part[held] == 1.0).all() and part.sum() == part[held].sum() for part in parts)
    assert cache.open(0, np.append(short, 1), "0") == 32
