"""The quantized tensors of GGUF files: each is a weight of its own, in a type that its role is named after.

Plain weights become such tensors, too, as llama.cpp chooses their types: rows that are no whole blocks of 256 are
rounded in blocks of 32, and those that are not even these stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.gguf.types import LAYOUTS, TYPES, TensorType

if TYPE_CHECKING:
    import torch


# Types by the encoding that weights are rounded to; the first whose blocks the rows are made up of is taken.
ROUNDED = {
    "q4_0": ("Q4_0",),
    "q4_1": ("Q4_1",),
    "q5_0": ("Q5_0",),
    "q5_1": ("Q5_1",),
    "q8_0": ("Q8_0",),
    "q4_k": ("Q4_K", "Q5_0"),
    "q6_k": ("Q6_K", "Q8_0"),
}
_BY_NAME = {type.name: type for type in TYPES.values()}


class GgufQuantization:
    """A BuiltQuantizationFormat that HasCodes and Rounds."""

    dtype = "BF16"
    types = frozenset(LAYOUTS)

    def __init__(self, context: QuantizationContext) -> None:
        self.encoding: str = context.model_config["quantization_config"].get("encoding", "gguf")

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return (tensor, dtype) if dtype in self.types else None

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        if len(tensors) != 1:
            raise ModelError(f"there are {len(tensors)} tensors of that name; fetch the checkpoint again")
        return next(iter(tensors.values())).shape

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return LAYOUTS[next(iter(tensors))]

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        from maxserve.plugins.gguf.blocks import READERS

        ((type, rows),) = tensors.items()
        return READERS[type](rows)

    def rounded_tensors(self, outputs: int, inputs: int) -> Mapping[str, TensorInfo]:
        type = rounded_type(self.encoding, inputs)
        if type is None:
            return {}
        size = outputs * inputs // type.values * type.size
        return {type.name: TensorInfo(dtype=type.name, shape=(outputs, inputs), size=size)}

    def rounded(self, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
        from maxserve.plugins.gguf.rounding import rounded_rows

        type = rounded_type(self.encoding, rows.shape[1])
        assert type is not None, "rounded_tensors says what is rounded"
        return {type.name: rounded_rows(rows, type)}


def rounded_type(encoding: str, inputs: int) -> TensorType | None:
    """What rows of so many inputs are rounded to; None where they are no whole blocks."""
    types = (_BY_NAME[name] for name in ROUNDED[encoding])
    return next((type for type in types if inputs % type.values == 0), None)
