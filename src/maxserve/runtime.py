"""Processes: statistics, and how threads wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.runtime.lifeline import PR_SET_PDEATHSIG
    from maxserve.core.runtime.observing import Observers
    from maxserve.core.runtime.openmp import wait_asleep

__all__ = [
    "Observers",
    "PR_SET_PDEATHSIG",
    "wait_asleep",
]

__getattr__ = exports(
    __name__,
    {
        "Observers": "maxserve.core.runtime.observing",
        "PR_SET_PDEATHSIG": "maxserve.core.runtime.lifeline",
        "wait_asleep": "maxserve.core.runtime.openmp",
    },
)
