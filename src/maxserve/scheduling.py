"""What steps take, for schedulers of any plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.schedulers.work_cost import WorkCost

__all__ = ["WorkCost"]

__getattr__ = exports(__name__, {"WorkCost": "maxserve.plugins.schedulers.work_cost"})
