"""What happens to a process's memory once it has built what it keeps for good?"""

from __future__ import annotations

import ctypes
import gc


def settle_heap() -> None:
    """Collections look no more through what was built, and what was freed meanwhile goes back to the system.

    The second only where the C library can (glibc): else it would stay with the process as holes in its heap.
    """
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
