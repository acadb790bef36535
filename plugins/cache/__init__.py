"""Cache strategies that come with maxserve, and their settings."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.cache import CacheStrategy
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_cache_strategies() -> Iterable[CacheStrategy]:
    yield CacheStrategy(
        name="paged",
        build="maxserve.plugins.cache.paged:paged_cache",
        summary="pages; equal prefixes are shared, and --paged.eviction says which go first",
        host_tier=True,
        windows=True,
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(name="paged", schema="maxserve.plugins.cache.settings:PagedSettings")
