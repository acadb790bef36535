"""Prefixes that open rows are computing, as both caches find them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.interfaces.cache import CacheContext, CacheGroup
from maxserve.plugins.cache.paged import paged_cache

PROMPT = np.arange(18)  # four pages of 4, and a rest


@pytest.fixture(params=["plain", "windowed"])
def cache(request: pytest.FixtureRequest) -> Any:
    given: dict[str, Any] = {"layers": (), "pages": 32, "page_size": 4, "rows": 4, "max_length": 64}
    given |= {"dtype": torch.float32, "device": torch.device("cpu")}
    groups = () if request.param == "plain" else (CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=6))
    return paged_cache(CacheContext(**given, groups=groups))


def compute(cache: Any, row: int, length: int) -> None:
    assert cache.reserve(row, length)
    cache.commit(row, PROMPT[:length])


def test_the_pages_of_an_open_row_are_pending_until_they_are_found(cache: Any) -> None:
    assert cache.pending(PROMPT, "", 0) == 0
    cache.open(0, PROMPT, "")
    assert cache.pending(PROMPT, "", 0) == 16
    assert cache.pending(np.array([*PROMPT[:9], 99, 99, 99]), "", 0) == 8
    for length in (4, 9, 16):
        compute(cache, 0, length)
        found = cache.peek(PROMPT, "")
        assert found == length // 4 * 4
        assert cache.pending(PROMPT, "", found) == 16
    cache.close(0)
    assert cache.pending(PROMPT, "", 0) == 0


def test_other_salts_and_other_pages_are_not_pending(cache: Any) -> None:
    cache.open(0, PROMPT, "one")
    assert cache.pending(PROMPT, "two", 0) == 0
    assert cache.pending(PROMPT + 1, "one", 0) == 0
    assert cache.pending(PROMPT[:3], "one", 0) == 0, "no page is full"
    assert cache.pending(PROMPT, "one", 4) == 4, "the row computes another page next"


def test_a_row_that_ends_leaves_its_prefix_to_the_next(cache: Any) -> None:
    for row in (0, 1):
        cache.open(row, PROMPT, "")
    cache.close(0)
    assert cache.pending(PROMPT, "", 0) == 16
    cache.close(1)
    assert cache.pending(PROMPT, "", 0) == 0
    cache.check()


def test_nothing_is_pending_where_nothing_is_shared() -> None:
    given: dict[str, Any] = {"layers": (), "pages": 8, "page_size": 4, "rows": 2, "max_length": 64}
    given |= {"dtype": torch.float32, "device": torch.device("cpu"), "share_prefixes": False}
    for groups in ((), (CacheGroup(layers=(0,)), CacheGroup(layers=(1,), window=6))):
        cache: Any = paged_cache(CacheContext(**given, groups=groups))
        cache.open(0, PROMPT, "")
        assert cache.pending(PROMPT, "", 0) == 0
