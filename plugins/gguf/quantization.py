"""The quantized tensors of GGUF files: each is a weight of its own, in a type that its role is named after.

Plain weights become such tensors, too, as llama.cpp chooses their types: rows that are no whole blocks of 256 are
rounded in blocks of 32, and those that are not even these stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import PlainCheckpoint, QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.gguf.types import LAYOUTS, rounded_type

if TYPE_CHECKING:
    import torch


class GgufQuantization:
    """A BuiltQuantizationFormat that NamesEncodings, HasCodes, HasRows, Rounds and WritesFiles."""

    dtype = "BF16"
    suffix = ".gguf"
    types = frozenset(LAYOUTS)

    def __init__(self, context: QuantizationContext) -> None:
        self.encoding: str = context.model_config["quantization_config"].get("encoding", "gguf")

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return (tensor, dtype) if dtype in self.types else None

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        if len(tensors) != 1:
            raise ModelError(f"there are {len(tensors)} tensors of that name; fetch the checkpoint again")
        return next(iter(tensors.values())).shape

    def encoding_of(self, tensors: Mapping[str, TensorInfo]) -> str:
        return next(iter(tensors)).lower()

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return LAYOUTS[next(iter(tensors))]

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        from maxserve.plugins.gguf.blocks import READERS

        ((type, rows),) = tensors.items()
        return READERS[type](rows)

    def rows(self, tensors: Mapping[str, torch.Tensor], first: int, last: int) -> Mapping[str, torch.Tensor]:
        return {type: rows[first:last] for type, rows in tensors.items()}

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

    def write_file(self, checkpoint: PlainCheckpoint, path: Path) -> Sequence[str]:
        from maxserve.plugins.gguf.written import write_file

        return write_file(checkpoint, path, self.encoding)
