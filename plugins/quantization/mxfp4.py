"""4-bit floats in blocks of 32 that share a power of two: OCP Microscaling Formats (MX) 1.0, MXFP4.

GPT-OSS stores the weight [..., inputs] as blocks [..., inputs / 32, 16] uint8, the even value of each pair in the lower
four bits, and scales [..., inputs / 32] uint8: exponents of two, plus 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext

if TYPE_CHECKING:
    import torch

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the lower three bits; the fourth is the sign
_BIAS = 127
_BLOCKS, _SCALES = "_blocks", "_scales"


class Mxfp4:
    """A BuiltQuantizationFormat."""

    dtype = "BF16"
    types = frozenset({"U8"})

    def __init__(self, context: QuantizationContext) -> None:
        pass  # the format has no choices

    def weight(self, tensor: str, dtype: str) -> str | None:
        if dtype not in self.types or not tensor.endswith((_BLOCKS, _SCALES)):
            return None
        return tensor.removesuffix(_BLOCKS).removesuffix(_SCALES)

    def tensors(self, weight: str) -> Mapping[str, str]:
        return {"blocks": weight + _BLOCKS, "scales": weight + _SCALES}

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        blocks = shapes["blocks"]
        return (*blocks[:-2], blocks[-2] * blocks[-1] * 2)

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        import torch

        values, scales = tensors["blocks"], tensors["scales"]
        if values.shape[:-1] != scales.shape:
            raise ModelError(f"blocks {list(values.shape)} and scales {list(scales.shape)} of MXFP4 do not fit")
        numbers = torch.tensor([*MAGNITUDES, *(-value for value in MAGNITUDES)])
        byte = torch.arange(256)
        pairs = torch.stack((numbers[byte & 15], numbers[byte >> 4]), dim=1)  # of every byte
        unpacked = pairs.index_select(0, values.flatten().int()).view(*scales.shape, -1)
        return torch.ldexp(unpacked, scales.int()[..., None] - _BIAS).flatten(-2).bfloat16()
