"""Processes: observers of statistics, and the signal that ends an orphan."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.runtime.lifeline import PR_SET_PDEATHSIG
    from maxserve.core.runtime.observing import Observers

__all__ = [
    "Observers",
    "PR_SET_PDEATHSIG",
]

__getattr__ = exports(
    __name__,
    {
        "Observers": "maxserve.core.runtime.observing",
        "PR_SET_PDEATHSIG": "maxserve.core.runtime.lifeline",
    },
)
