"""The quantized tensors of GGUF files: each is a weight of its own, in a type that its role is named after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.gguf.types import LAYOUTS

if TYPE_CHECKING:
    import torch


class GgufQuantization:
    """A BuiltQuantizationFormat that HasCodes."""

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
