"""8-bit floats in square blocks that share a factor, as DeepSeek-V3 is stored: arXiv 2412.19437, 3.3.2.

The weight [outputs, inputs] is float8_e4m3fn; `weight_scale_inv` has one float32 a block, which its values are
multiplied by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.quantization.parts import require

if TYPE_CHECKING:
    import torch

_SCALES = "_scale_inv"


class BlockFp8:
    """A BuiltQuantizationFormat that HasCodes."""

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

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        if tensor.endswith(_SCALES):
            return tensor.removesuffix(_SCALES), "scales"
        return (tensor, "values") if dtype in self.types else None

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        require(tensors, "values", "scales")
        values, scales = tensors["values"].shape, tensors["scales"].shape
        rows, columns = values[-2:]
        if scales[-2:] != (-(-rows // self._rows), -(-columns // self._columns)):
            raise ModelError(
                f"scales {list(scales)} do not fit a weight of {list(values)} in blocks of "
                f"{self._rows} x {self._columns}"
            )
        return values

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return CodesLayout(levels=256, group=self._columns)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        import torch

        values = tensors["values"]
        table = torch.arange(256, dtype=torch.uint8).view(values.dtype).float()
        scales = tensors["scales"].float().repeat_interleave(self._rows, -2)[: len(values)]
        return Codes(codes=values.view(torch.uint8), table=table, group=self._columns, scales=scales)
