"""The formats of keys and values that come with maxserve."""

from __future__ import annotations

import torch
from torch import Tensor

from maxserve.interfaces.cache import CacheFormatContext, PlainFormat
from maxserve.interfaces.errors import Unavailable

LARGEST = 127


def float32(context: CacheFormatContext) -> PlainFormat:
    return PlainFormat(torch.float32)


def bfloat16(context: CacheFormatContext) -> PlainFormat:
    return PlainFormat(torch.bfloat16)


def float8(context: CacheFormatContext) -> PlainFormat:
    """A byte of 4 bits of exponent and 3 of mantissa, up to 448."""
    return PlainFormat(torch.float8_e4m3fn)


class Int8Format:
    """A BuiltCacheFormat of whole numbers from -127 to 127, with a float32 for each head of a token as their scale.

    The scale is the largest magnitude of the head divided by 127. A head with a number that is not finite has NaN as
    its scale.
    """

    dtype = torch.int8
    scale_dtype = torch.float32
    factored = False

    def __init__(self, context: CacheFormatContext) -> None:
        for layer in context.layers:
            if layer.values_in_keys or layer.index_top:
                raise Unavailable(
                    "layers whose values are part of their keys (MLA), or whose tokens choose what they see, have no "
                    "scale of their own for each part"
                )

    def width(self, size: int) -> int:
        return size

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.float()
        scales = x.abs().amax(-1) / LARGEST
        codes = (x / scales.unsqueeze(-1)).nan_to_num(0.0, 0.0, 0.0).round().clamp(-LARGEST, LARGEST)
        return codes.to(torch.int8), scales.where(scales.isfinite(), torch.nan)

    def decode(self, codes: Tensor, scales: Tensor | None) -> Tensor:
        assert scales is not None, "codes come with scales"
        return codes.float() * scales.unsqueeze(-1)
