from __future__ import annotations

import pytest

from maxserve.core.interfaces.cache import MOST_GROUPS, CacheGroup, CacheLayer, cache_groups, longest, pages_of


def layers(kinds: str, **more: int) -> list[CacheLayer]:
    """w: a window of 100, v: one of 50, c: chunks of 64, F: everything."""
    reach = {"w": {"window": 100}, "v": {"window": 50}, "c": {"chunk": 64}, "F": {}}
    return [CacheLayer(kv_heads=1, head_dim=8, **reach[kind], **more) for kind in kinds]


def groups(kinds: str, max_length: int = 1000) -> list[tuple[int, ...]]:
    return [group.layers for group in cache_groups(layers(kinds), max_length)]


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("FFF", []),
        ("www", [(0, 1, 2)]),
        ("wFwF", [(1, 3), (0, 2)]),
        ("wwwF", [(3,), (0,), (1,), (2,)]),
        ("wwwwwFwwwwwFww", [(5, 11), (0, 1), (2, 3), (4, 6), (7, 8), (9, 10), (12, 13)]),
        ("wvFwvF", [(2, 5), (0, 3), (1, 4)]),
        ("cccF", [(3,), (0,), (1,), (2,)]),
    ],
)
def test_layers_that_look_back_equally_far_share_tables(kinds: str, expected: list[tuple[int, ...]]) -> None:
    assert groups(kinds) == expected


@pytest.mark.parametrize("kinds", ["F" + "w" * 30, "w" * 40 + "F" * 3, "Fw" * 20, "F" * 62 + "w"])
def test_every_layer_is_in_one_of_few_groups(kinds: str) -> None:
    found = groups(kinds)
    assert len(found) <= MOST_GROUPS
    assert sorted(layer for group in found for layer in group) == list(range(len(kinds)))


def test_windows_that_rows_never_outgrow_are_none() -> None:
    assert groups("wFwF", 100) == []
    assert groups("wFwF", 101) == [(1, 3), (0, 2)]
    assert groups("wvwv", 100) == [(0, 2), (1, 3)]
    assert groups("cccc", 64) == []


def test_layers_of_unlike_sizes_share_pages_only_if_they_look_back_equally_far() -> None:
    wide = CacheLayer(kv_heads=2, head_dim=8, window=100)
    assert cache_groups([*layers("F"), wide], 1000) == ()
    assert cache_groups([*layers("w"), wide], 1000) == (CacheGroup(layers=(0, 1), window=100),)


@pytest.mark.parametrize(
    ("group", "length", "low", "page"),
    [
        (CacheGroup(layers=()), 1000, 0, 0),
        (CacheGroup(layers=(), window=1), 10, 10, 0),
        (CacheGroup(layers=(), window=1), 16, 16, 1),
        (CacheGroup(layers=(), window=20), 19, 0, 0),
        (CacheGroup(layers=(), window=20), 50, 31, 1),
        (CacheGroup(layers=(), window=20), 51, 32, 2),
        (CacheGroup(layers=(), chunk=24), 47, 24, 1),
        (CacheGroup(layers=(), chunk=24), 48, 48, 3),
        (CacheGroup(layers=(), window=10, chunk=24), 47, 38, 2),
        (CacheGroup(layers=(), window=30, chunk=24), 49, 48, 3),
    ],
)
def test_the_first_page_that_the_next_token_needs(group: CacheGroup, length: int, low: int, page: int) -> None:
    assert group.low(length) == low
    assert group.first_page(length, 16) == page


@pytest.mark.parametrize("group", [CacheGroup(layers=(), window=20), CacheGroup(layers=(), chunk=33)])
@pytest.mark.parametrize("step", [1, 16, 50])
def test_no_row_holds_more_than_the_bound(group: CacheGroup, step: int) -> None:
    """Rows compute `step` tokens at once, and give back when a page is full."""
    bound, first, full = group.most_pages(16, step), 0, 0
    assert bound is not None
    for start in range(500):
        assert -(-(start + step) // 16) - first <= bound
        if (start + 1) // 16 > full:
            full, first = (start + 1) // 16, group.first_page(start + 1, 16)


def test_pages_of_a_length_and_back() -> None:
    bounds = (None, 5, 7)
    assert [pages_of(tokens, 16, bounds) for tokens in (0, 1, 80, 81, 112, 113, 1600)] == [0, 3, 15, 17, 19, 20, 112]
    for pages in range(3, 120):
        tokens = longest(pages, 16, bounds, 10_000)
        assert pages_of(tokens, 16, bounds) <= pages < pages_of(tokens + 1, 16, bounds)
    assert longest(2, 16, bounds, 10_000) == 0
    assert longest(12, 16, (5, 7), 10_000) == 10_000
    assert longest(1000, 16, bounds, 50) == 50
