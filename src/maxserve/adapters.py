"""The pool of adapters, and the rows of steps that have some, for adapters of any kind and from any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.adapters.bound import StepRows, rows_by_slot
    from maxserve.plugins.adapters.pool import SlotPool, slot_pool
    from maxserve.plugins.adapters.projections import AdaptedModel, locator_of

__all__ = ["AdaptedModel", "SlotPool", "StepRows", "locator_of", "rows_by_slot", "slot_pool"]

__getattr__ = exports(
    __name__,
    {
        "AdaptedModel": "maxserve.plugins.adapters.projections",
        "SlotPool": "maxserve.plugins.adapters.pool",
        "StepRows": "maxserve.plugins.adapters.bound",
        "locator_of": "maxserve.plugins.adapters.projections",
        "rows_by_slot": "maxserve.plugins.adapters.bound",
        "slot_pool": "maxserve.plugins.adapters.pool",
    },
)
