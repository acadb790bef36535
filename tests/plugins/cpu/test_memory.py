from __future__ import annotations

import mmap
import weakref

import pytest
import torch

from maxserve.plugins.cpu.memory import ALIGNMENT, CHUNK, WeightMemory


def test_tensors_are_zero_aligned_and_their_own() -> None:
    memory = WeightMemory()
    made = [memory.zeros(3, 5, dtype=dtype) for dtype in (torch.uint8, torch.bfloat16, torch.float32)]
    for number, tensor in enumerate(made):
        assert tensor.shape == (3, 5)
        assert not tensor.any()
        assert tensor.data_ptr() % ALIGNMENT == 0
        tensor.fill_(number + 1)
    assert [tensor.unique().tolist() for tensor in made] == [[1], [2], [3]]


def test_what_is_larger_than_a_chunk_has_its_own() -> None:
    memory = WeightMemory()
    before, large, after = (memory.zeros(size, dtype=torch.uint8) for size in (100, CHUNK + 1, 100))
    before[-1] = large[0] = large[-1] = after[0] = 1
    assert [int(tensor.sum()) for tensor in (before, large, after)] == [1, 2, 1]


def test_nothing_has_no_memory() -> None:
    assert WeightMemory().zeros(0, 4, dtype=torch.float32).shape == (0, 4)


def test_a_chunk_goes_with_its_last_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[weakref.ref[mmap.mmap]] = []

    class Watched(mmap.mmap):
        def __init__(self, *args: object, **named: object) -> None:
            chunks.append(weakref.ref(self))

    monkeypatch.setattr(mmap, "mmap", Watched)
    memory = WeightMemory()
    kept, gone = memory.zeros(10, dtype=torch.uint8), memory.zeros(10, dtype=torch.uint8)
    memory.zeros(CHUNK, dtype=torch.uint8)  # begins another one
    del gone
    assert chunks[0]() is not None
    del kept
    assert chunks[0]() is None


def test_a_kernel_without_large_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1, raising=False)  # an advice that no kernel knows
    assert not WeightMemory().zeros(8, dtype=torch.float32).any()
