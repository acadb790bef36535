"""The memory of a process that has built what it keeps for good."""

from __future__ import annotations

import ctypes
import gc


def settle_heap() -> None:
    """Collections begin, past what was built, and what was freed meanwhile goes back to the system."""
    gc.freeze()
    gc.enable()
    give_back()


def give_back() -> None:
    """What was freed goes back to the system, where the C library can (glibc): else it stays as holes in the heap."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
