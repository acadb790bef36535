"""Cache strategies that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve.core.components import CacheStrategy
from maxserve.core.hookspecs import hookimpl


@hookimpl
def maxserve_cache_strategies() -> Iterable[CacheStrategy]:
    """Pages with shared prefixes, by what is evicted first."""
    yield CacheStrategy(
        name="paged",
        build="maxserve.plugins.cache.paged.cache:build_lru",
        summary="pages; equal prefixes are shared; the least recently used go first",
    )
    yield CacheStrategy(
        name="paged-lfu",
        build="maxserve.plugins.cache.paged.cache:build_lfu",
        summary="pages; equal prefixes are shared; the least often found go first",
    )
