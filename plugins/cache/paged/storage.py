"""The storage of keys and values, layer by layer."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from maxserve.interfaces.cache import CacheContext, CacheLayer, KVLayer, PlainFormat

if TYPE_CHECKING:
    import torch

    from maxserve.interfaces.cache import BuiltCacheFormat

ALIGNMENT = 64  # bytes; what vector instructions like best
_MADV_DONTNEED = 4  # Linux': memory of a process's own reads as zeros afterwards


def allocate(context: CacheContext) -> list[KVLayer]:
    """One KVLayer per layer of the context, filled with zeros; the n-th layers of all its groups have the same one.

    Zeros, since attention may read the unwritten rest of a page before it masks it, and NaN times 0 is NaN.
    """
    if not context.groups:
        return [_allocate(layer, context) for layer in context.layers]
    shared: list[KVLayer] = []
    made: dict[int, KVLayer] = {}
    for group in context.groups:
        for index, layer in enumerate(group.layers if context.layers else ()):
            if index == len(shared):
                shared.append(_allocate(context.layers[layer], context))
            made[layer] = shared[index]
    return [made[layer] for layer in range(len(context.layers))]


def _allocate(layer: CacheLayer, context: CacheContext) -> KVLayer:
    format = context.format or PlainFormat(context.dtype)
    shape = (context.pages, context.page_size, layer.kv_heads)
    keys, key_scales = _codes(shape, layer.head_dim, format, context.device)
    if layer.values_in_keys:
        return KVLayer(keys, keys[..., : layer.value_size], key_scales, key_scales)
    values, value_scales = _codes(shape, layer.value_size, format, context.device)
    return KVLayer(keys, values, key_scales, value_scales)


def _codes(
    shape: tuple[int, ...], size: int, format: BuiltCacheFormat, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Room for heads of `size` numbers, and for their scales."""
    codes = zeros((*shape, format.width(size)), format.dtype, device)
    return codes, None if format.scale_dtype is None else zeros(shape, format.scale_dtype, device)


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A zero tensor; on the CPU its memory is touched page by page, when it is first used."""
    import torch

    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return untouched(shape, dtype)


def untouched(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros in the CPU's memory that take none of it before they are used."""
    import torch

    size = int(np.prod(shape)) * dtype.itemsize
    if not size:
        return torch.zeros(shape, dtype=dtype)
    memory = np.zeros(size + ALIGNMENT, dtype=np.uint8)  # torch.zeros would write to all of it at once
    skip = -memory.ctypes.data % ALIGNMENT
    return torch.from_numpy(memory[skip : skip + size]).view(dtype).view(shape)


def give_pages_back(layers: Sequence[KVLayer], runs: Iterable[tuple[int, int]]) -> None:
    """Gives memory of the CPU back to the system: that of pages, by the first and the last of each run of them.

    They are zeros afterwards, and take memory when they are next used. What shares a page of memory with others stays.
    """
    if sys.platform != "linux":
        return
    parts = {part.data_ptr(): part for layer in layers for part in layer.parts if part.device.type == "cpu"}
    system = ctypes.CDLL(None, use_errno=True)
    for first, last in runs if parts else ():
        for start, part in parts.items():
            size = part[0].numel() * part.itemsize
            low = -(-(start + first * size) // mmap.PAGESIZE) * mmap.PAGESIZE
            high = (start + (last + 1) * size) // mmap.PAGESIZE * mmap.PAGESIZE
            if low < high and system.madvise(ctypes.c_void_p(low), ctypes.c_size_t(high - low), _MADV_DONTNEED):
                return  # it has nothing against it but in memory of other kinds, such as locked memory
