"""The pool of adapters, and the rows of steps that have some, for adapters of any kind and from any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.adapters.bound import StepRows, rows_by_slot
    from maxserve.plugins.adapters.pool import SlotPool, slot_pool
    from maxserve.plugins.adapters.projections import AdaptedModel, locator_of
    from maxserve.plugins.adapters.shares import SharedPool, SharedProjection, SharesAdapters, Tell, own_part

__all__ = [
    "AdaptedModel",
    "SharedPool",
    "SharedProjection",
    "SharesAdapters",
    "SlotPool",
    "StepRows",
    "Tell",
    "locator_of",
    "own_part",
    "rows_by_slot",
    "slot_pool",
]

__getattr__ = exports(
    __name__,
    {
        "AdaptedModel": "maxserve.plugins.adapters.projections",
        "SharedPool": "maxserve.plugins.adapters.shares",
        "SharedProjection": "maxserve.plugins.adapters.shares",
        "SharesAdapters": "maxserve.plugins.adapters.shares",
        "SlotPool": "maxserve.plugins.adapters.pool",
        "StepRows": "maxserve.plugins.adapters.bound",
        "Tell": "maxserve.plugins.adapters.shares",
        "locator_of": "maxserve.plugins.adapters.projections",
        "own_part": "maxserve.plugins.adapters.shares",
        "rows_by_slot": "maxserve.plugins.adapters.bound",
        "slot_pool": "maxserve.plugins.adapters.pool",
    },
)
