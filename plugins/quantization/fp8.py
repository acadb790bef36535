"""8-bit floats in square blocks that share a factor, as DeepSeek-V3 is stored: arXiv 2412.19437, 3.3.2.

The weight [outputs, inputs] is float8_e4m3fn; `weight_scale_inv` has one float32 a block, which its values are
multiplied by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext

if TYPE_CHECKING:
    import torch

_SCALES = "_scale_inv"


class BlockFp8:
    """A BuiltQuantizationFormat."""

    dtype = "BF16"
    types = frozenset({"F8_E4M3"})

    def __init__(self, context: QuantizationContext) -> None:
        size = context.model_config["quantization_config"].get("weight_block_size")
        if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
            raise ModelError(
                f"config.json: fp8 weights are read in blocks alone, and 'weight_block_size' is {size!r}; use a "
                "checkpoint with blocks, such as [128, 128], or an unquantized one"
            )
        self._rows, self._columns = size

    def weight(self, tensor: str, dtype: str) -> str | None:
        if tensor.endswith(_SCALES):
            return tensor.removesuffix(_SCALES)
        return tensor if dtype in self.types else None

    def tensors(self, weight: str) -> Mapping[str, str]:
        return {"values": weight, "scales": weight + _SCALES}

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        return shapes["values"]

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        values, scales = tensors["values"], tensors["scales"]
        rows, columns = values.shape[-2:]
        if scales.shape[-2:] != (-(-rows // self._rows), -(-columns // self._columns)):
            raise ModelError(
                f"scales {list(scales.shape)} do not fit a weight of {list(values.shape)} in blocks of "
                f"{self._rows} x {self._columns}"
            )
        factors = scales.float().repeat_interleave(self._rows, -2)[..., :rows, :]
        factors = factors.repeat_interleave(self._columns, -1)[..., :columns]
        return (values.float() * factors).bfloat16()
