"""Memory of weights, on large pages where the system has them.

A decoding step reads all weights once. With pages of 4 KiB the processor looks up a page for every 64 lines of its
cache, and fetches nothing ahead across their ends.
"""

from __future__ import annotations

import mmap
import threading
from contextlib import suppress
from math import prod

import torch
from torch import Tensor

LARGE_PAGE = 2 << 20
CHUNK = 64 << 20  # bytes that are taken at once: weights lie side by side, and what is not touched costs nothing
ALIGNMENT = 64


class WeightMemory:
    """Hands out zeroed tensors, which share chunks; a chunk goes back to the system with the last of its tensors."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk: mmap.mmap | None = None
        self._used = 0

    def zeros(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """[shape] of zeros."""
        count = prod(shape)
        if not count:
            return torch.zeros(shape, dtype=dtype)
        chunk, start = self._take(count * dtype.itemsize)
        return torch.frombuffer(chunk, dtype=dtype, count=count, offset=start).view(shape)

    def _take(self, size: int) -> tuple[mmap.mmap, int]:
        """A chunk and where `size` bytes begin in it."""
        with self._lock:
            start = -(-self._used // ALIGNMENT) * ALIGNMENT
            if self._chunk is None or start + size > len(self._chunk):
                self._chunk, start = _chunk(max(CHUNK, -(-size // LARGE_PAGE) * LARGE_PAGE)), 0
            self._used = start + size
            return self._chunk, start


def _chunk(size: int) -> mmap.mmap:
    """Zeroed memory of this process alone."""
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)  # only Linux has it
    if advice is not None:
        with suppress(OSError):  # a kernel without large pages
            made.madvise(advice)
    return made


weight_memory = WeightMemory()
