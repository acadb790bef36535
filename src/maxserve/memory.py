"""The plan of what a device's memory is for, for cache strategies of any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.cache.memory_plan import MemoryPlan, plan_cache

__all__ = ["MemoryPlan", "plan_cache"]

__getattr__ = exports(
    __name__,
    {
        "MemoryPlan": "maxserve.plugins.cache.memory_plan",
        "plan_cache": "maxserve.plugins.cache.memory_plan",
    },
)
