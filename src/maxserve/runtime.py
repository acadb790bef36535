"""Processes: observers of statistics, ranks that share a model, and the end of a process with its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.runtime.heap import give_back
    from maxserve.core.runtime.launch import serve
    from maxserve.core.runtime.lifeline import end_with_parent
    from maxserve.core.runtime.observing import Observers
    from maxserve.core.runtime.ranks import Rank, RankGroup

__all__ = [
    "serve",
    "Observers",
    "Rank",
    "RankGroup",
    "end_with_parent",
    "give_back",
]

__getattr__ = exports(
    __name__,
    {
        "serve": "maxserve.core.runtime.launch",
        "Observers": "maxserve.core.runtime.observing",
        "Rank": "maxserve.core.runtime.ranks",
        "RankGroup": "maxserve.core.runtime.ranks",
        "end_with_parent": "maxserve.core.runtime.lifeline",
        "give_back": "maxserve.core.runtime.heap",
    },
)
