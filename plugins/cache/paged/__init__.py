"""The paged cache. A strategy that keeps to an order of eviction of its own builds `paged_cache(context, policy)`."""

from __future__ import annotations

from maxserve.interfaces.cache import Cache, CacheContext, NodeOrder
from maxserve.plugins.cache.paged.cache import PagedCache
from maxserve.plugins.cache.paged.windowed import WindowedCache
from maxserve.plugins.cache.policies import LeastFrequentlyUsed, LeastRecentlyUsed

__all__ = ["LeastFrequentlyUsed", "LeastRecentlyUsed", "PagedCache", "WindowedCache", "paged_cache"]


def paged_cache(context: CacheContext, policy: NodeOrder | None = None) -> Cache:
    """The cache for the context: one table for all layers, or one for each of its groups."""
    if context.groups:
        return WindowedCache(context, policy)
    return PagedCache(context, policy)
