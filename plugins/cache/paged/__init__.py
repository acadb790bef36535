"""The paged cache. A plugin with its own order of eviction builds `PagedCache(context, policy)`."""

from __future__ import annotations

from maxserve.plugins.cache.paged.cache import PagedCache
from maxserve.plugins.cache.policies import LeastFrequentlyUsed, LeastRecentlyUsed

__all__ = ["LeastFrequentlyUsed", "LeastRecentlyUsed", "PagedCache"]
