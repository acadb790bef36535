from __future__ import annotations

import ctypes
import gc
import subprocess
import sys

import pytest

from maxserve.core.runtime.heap import settle_heap

HOLES = """
from pathlib import Path
from maxserve.core.runtime.heap import settle_heap
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
blocks = [bytearray(1000) for _ in range(50_000)]  # by malloc, not by Python's own allocator
kept, blocks = blocks[-1], None
before = resident()
settle_heap()
print(before - resident())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library cannot give memory back")
def test_what_was_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", HOLES], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 30 << 20


def test_collections_do_not_look_through_what_was_built() -> None:
    try:
        before = gc.get_freeze_count()
        settle_heap()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
