"""How far a group of layers looks back, and the pages of a length."""

from __future__ import annotations

import pytest

from maxserve.core.interfaces.cache import CacheGroup, pages_of
from maxserve.plugins.cache.memory_plan import _longest


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
        tokens = _longest(pages, 16, bounds, 10_000)
        assert pages_of(tokens, 16, bounds) <= pages < pages_of(tokens + 1, 16, bounds)
    assert _longest(2, 16, bounds, 10_000) == 0
    assert _longest(12, 16, (5, 7), 10_000) == 10_000
    assert _longest(1000, 16, bounds, 50) == 50
