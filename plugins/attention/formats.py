"""Keys and values in storage of another type."""

from __future__ import annotations

import torch
from torch import Tensor


def write(storage: Tensor, slots: Tensor, values: Tensor) -> None:
    """Puts `values` into the rows `slots` of `storage`; what its type cannot hold becomes the nearest it can."""
    if storage.dtype is torch.float8_e4m3fn:
        largest = torch.finfo(storage.dtype).max
        values = values.clamp(-largest, largest)  # the cast alone gives NaN in some releases of torch
    _bytes(storage).index_copy_(0, slots, _bytes(values.to(storage.dtype)))


def read(storage: Tensor, slots: Tensor) -> Tensor:
    """The rows `slots` of `storage`, in its type."""
    return _bytes(storage)[slots].view(storage.dtype)


def _bytes(tensor: Tensor) -> Tensor:
    """8-bit numbers as the bytes they are: torch moves few of their types by index."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor
