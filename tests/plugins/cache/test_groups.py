"""The layers that share a block table."""

from __future__ import annotations

import pytest

from maxserve.core.interfaces.cache import CacheGroup, CacheLayer
from maxserve.plugins.cache.paged.groups import MOST_GROUPS, cache_groups


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
