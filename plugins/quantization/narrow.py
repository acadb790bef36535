"""Numbers in few bytes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["narrowed"]

_NARROW = (torch.uint8, torch.int8, torch.float16, torch.bfloat16)


def narrowed(numbers: Tensor) -> Tensor:
    """The same numbers, of any shape and type, in the first of these types that has them all: uint8, int8, float16,
    bfloat16, float32.

    Linear methods keep the scales, offsets and zeros of `Codes` so.
    """
    wide = numbers.float()
    for dtype in _NARROW:
        if not dtype.is_floating_point and not _within(wide, torch.iinfo(dtype)):
            continue
        narrow = wide.to(dtype)
        if torch.equal(narrow.float(), wide):
            return narrow
    return wide  # with numbers that are none


def _within(numbers: Tensor, limits: torch.iinfo) -> bool:
    return bool(((numbers >= limits.min) & (numbers <= limits.max)).all())
