"""What joins the processes that share a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.plugins.executors.group import LocalGroup, SharedCopies

__all__ = ["LocalGroup", "SharedCopies"]

__getattr__ = exports(
    __name__,
    {
        "LocalGroup": "maxserve.plugins.executors.group",
        "SharedCopies": "maxserve.plugins.executors.group",
    },
)
