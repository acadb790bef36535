"""How the threads of a compute library wait for each other: by sleeping, so that neighbours have the cores.

OpenMP threads that wait by spinning starve other processes on their cores: with one busy neighbour on two cores a step
takes seconds. A very short spin (some microseconds) is worth it all the same: the threads of a compiled layer meet a
dozen times, and being woken takes longer than most of what lies between.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""Read when torch is loaded; what is set already stays as it is."""


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wait_asleep(environ: MutableMapping[str, str] = os.environ) -> bool:
    """Sets the variables for this process, and returns whether that was in time: torch is not loaded yet."""
    if "torch" in sys.modules:
        return False
    for name, value in WAITING.items():
        environ.setdefault(name, value)
    return True
