"""4-bit floats in blocks of 32 that share a power of two: OCP Microscaling Formats (MX) 1.0, MXFP4.

GPT-OSS stores the weight [..., inputs] as blocks [..., inputs / 32, 16] uint8, the even value of each pair in the lower
four bits, and scales [..., inputs / 32] uint8: exponents of two, plus 127.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.quantization.parts import damaged, named_part, require

if TYPE_CHECKING:
    import torch

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the lower three bits; the fourth is the sign
TABLE = (*_MAGNITUDES, *(-value for value in _MAGNITUDES))
_BIAS = 127
_NAN = 255
_GROUP = 32


class Mxfp4:
    """A BuiltQuantizationFormat that HasCodes."""

    encoding = "mxfp4"
    dtype = "BF16"
    types = frozenset({"U8"})

    def __init__(self, context: QuantizationContext) -> None:
        pass  # the format has no choices

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return named_part(tensor, dtype, self.types, {"_blocks": "blocks", "_scales": "scales"})

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        require(tensors, "blocks", "scales")
        blocks, scales = tensors["blocks"].shape, tensors["scales"].shape
        if blocks[:-1] != scales or blocks[-1:] != (_GROUP // 2,):
            raise damaged(f"blocks {list(blocks)} and scales {list(scales)} of MXFP4 do not fit")
        return (*scales[:-1], scales[-1] * _GROUP)

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return CodesLayout(levels=len(TABLE), group=_GROUP, added=1)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        import torch

        blocks = tensors["blocks"]
        pairs = torch.stack((blocks & 15, blocks >> 4), dim=-1)
        scales = powers_of_two(tensors["scales"])
        return Codes(codes=pairs.flatten(1), table=torch.tensor(TABLE), group=_GROUP, scales=scales)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """The scales with these exponents, plus 127; ModelError where one is 255, which stands for no number."""
    import torch

    if (exponents == _NAN).any():
        raise ModelError(f"some exponents of its scales are {_NAN}, which are no numbers; fetch the checkpoint again")
    return torch.ldexp(torch.ones(exponents.shape), exponents.int() - _BIAS)
