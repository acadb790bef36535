"""Rows of storage by their slots."""

from __future__ import annotations

import torch
from torch import Tensor


def write(storage: Tensor, slots: Tensor, rows: Tensor) -> None:
    """Puts `rows` into the rows `slots` of `storage`."""
    _bytes(storage).index_copy_(0, slots, _bytes(rows))


def read(storage: Tensor, slots: Tensor) -> Tensor:
    """The rows `slots` of `storage`, in its type."""
    return _bytes(storage)[slots].view(storage.dtype)


def _bytes(tensor: Tensor) -> Tensor:
    """8-bit numbers as the bytes they are: torch moves few of their types by index."""
    return tensor.view(torch.uint8) if tensor.dtype.itemsize == 1 else tensor
