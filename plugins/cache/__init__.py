"""Cache strategies that come with maxserve, their settings, and the formats of what they store."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.cache import CacheFormat, CacheStrategy, EvictionPolicy
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_cache_strategies() -> Iterable[CacheStrategy]:
    yield CacheStrategy(
        name="paged",
        build="maxserve.plugins.cache.paged:paged_cache",
        summary="pages; equal prefixes are shared, and --paged.eviction says which go first",
        host_tier=True,
        groups="maxserve.plugins.cache.paged.groups:cache_groups",
    )


@hookimpl
def maxserve_eviction_policies() -> Iterable[EvictionPolicy]:
    yield EvictionPolicy(
        name="lru",
        build="maxserve.plugins.cache.policies:LeastRecentlyUsed",
        summary="what was not used for longest goes first; right for most traffic",
    )
    yield EvictionPolicy(
        name="lfu",
        build="maxserve.plugins.cache.policies:LeastFrequentlyUsed",
        summary="what was found least often goes first: system prompts outlive single visitors",
    )
    yield EvictionPolicy(
        name="fifo",
        build="maxserve.plugins.cache.policies:FirstInFirstOut",
        summary="what was cached first goes first, used or not",
    )
    yield EvictionPolicy(
        name="mru",
        build="maxserve.plugins.cache.policies:MostRecentlyUsed",
        summary="what was used last goes first, for more prefixes than fit that come round and round",
    )


@hookimpl
def maxserve_cache_formats() -> Iterable[CacheFormat]:
    yield CacheFormat(name="float32", build="maxserve.plugins.cache.formats:float32", summary="4 bytes a number")
    yield CacheFormat(name="bfloat16", build="maxserve.plugins.cache.formats:bfloat16", summary="2 bytes a number")
    yield CacheFormat(
        name="float8_e4m3fn",
        build="maxserve.plugins.cache.formats:float8",
        summary="a byte a number, up to 448, divided by the checkpoint's scales if it has some",
    )
    yield CacheFormat(
        name="int8",
        build="maxserve.plugins.cache.formats:Int8Format",
        summary="a byte a number, with a scale for each head of a token",
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    yield ConfigSection(name="paged", schema="maxserve.plugins.cache.settings:PagedSettings")
