"""8-bit floats, float8_e4m3fn, with factors: one for all, one a row, or one for each of square blocks.

DeepSeek-V3 is stored in blocks (arXiv 2412.19437, 3.3.2): a weight [outputs, inputs] is `weight` and
`weight_scale_inv`, one float32 a block, which its values are multiplied by. Others have `weight_scale`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.cache import CacheFactors, CacheLayer
from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import PlainCheckpoint, QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo, WeightFile
from maxserve.plugins.quantization.cache_factors import cache_factors
from maxserve.plugins.quantization.parts import FLOATS, Rounded, computed_type, damaged, of_types, require

if TYPE_CHECKING:
    import torch

Blocks = tuple[int, int] | None
_SCALES = ("_scale_inv", "_scale")
_INPUTS = (".input_scale", ".activation_scale")  # what inputs were divided by, where they were rounded, too
_SCALED = (".weight", "_proj")  # ends of the names of weights, and of stacks of them
_WIDE = 4  # bytes of a scale, of which every row of a block has one
_NAN = 0x7F
_LARGEST = 448.0


class Fp8:
    """A BuiltQuantizationFormat that HasCodes, HasCacheFactors, SeesOthers, LeavesOut, Rounds and WritesCheckpoints."""

    encoding = "float8_e4m3fn"
    types = frozenset({"F8_E4M3"})

    def __init__(self, context: QuantizationContext) -> None:
        self.dtype = computed_type(context.model_config)
        self._rounded = Rounded()
        self._blocks = blocks_of(context.model_config["quantization_config"].get("weight_block_size"))

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        if dtype in self.types:
            return tensor, "values"
        for ending in _INPUTS:
            if tensor.endswith(ending):
                self._rounded.inputs()
                return tensor.removesuffix(ending) + ".weight", "inputs"
        scaled = next((ending for ending in _SCALES if tensor.endswith(ending)), None)
        if scaled is None or not tensor.removesuffix(scaled).endswith(_SCALED):
            return None  # a factor of the cache, or a parameter such as logit_scale
        return tensor.removesuffix(scaled), "scales"

    def part_among(self, tensor: str, types: Mapping[str, str]) -> tuple[str, str] | None:
        for ending in _SCALES:
            weight = tensor.removesuffix(ending)
            if weight != tensor and types.get(weight) in self.types:
                return weight, "scales"
        return self.part(tensor, types[tensor])

    def left_out(self, tensor: str, content: torch.Tensor) -> bool:
        if is_of_cache(tensor):
            self._rounded.cache()
        return is_of_cache(tensor)

    def cache_factors(self, files: Sequence[WeightFile], layers: Sequence[CacheLayer]) -> Mapping[int, CacheFactors]:
        return cache_factors(files, layers)

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        of_types(tensors, {"scales": FLOATS})
        return scaled_shape(tensors, self._blocks)

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return scaled_layout(tensors, self._blocks)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        self._rounded.say()
        return scaled_codes(tensors, self._blocks)

    def rounded_tensors(self, outputs: int, inputs: int) -> Mapping[str, TensorInfo]:
        values = TensorInfo(dtype="F8_E4M3", shape=(outputs, inputs), size=outputs * inputs)
        return {"values": values, "scales": TensorInfo(dtype="F32", shape=(outputs, 1), size=_WIDE * outputs)}

    def rounded(self, rows: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Each row with a scale of its own, by which its largest value is the largest there is."""
        import torch

        wide = rows.float()
        scales = wide.abs().amax(1, keepdim=True) / _LARGEST
        if not scales.isfinite().all():
            raise ModelError(
                "some of its values are no numbers, and cannot be rounded; fetch the checkpoint again, or use its "
                "weights as they are stored"
            )
        scales = torch.where(scales == 0, 1.0, scales)
        values = (wide / scales).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
        return {"values": values, "scales": scales}

    def write(self, checkpoint: PlainCheckpoint, folder: Path) -> None:
        from maxserve.plugins.quantization.written import write_folder

        write_folder(checkpoint, folder, self)


def is_of_cache(tensor: str) -> bool:
    """Whether it is a factor of keys or values, which cache formats use, or of scores, which are not rounded."""
    return tensor.endswith(
        (".k_scale", ".v_scale", ".q_scale", ".prob_scale", ".kv_scale", ".output_scale", ".kv_cache_scale")
    )


def blocks_of(size: object) -> Blocks:
    """The rows and columns of a block, as config.json says them; None where there are no blocks."""
    if size is None:
        return None
    if isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size):
        return size[0], size[1]
    raise ModelError(
        f"the blocks of quantized weights are two numbers such as [128, 128], not {size!r:.60}; use a "
        "checkpoint with such blocks, or without any"
    )


def scaled_shape(tensors: Mapping[str, Any], blocks: Blocks) -> tuple[int, ...]:
    """The shape of `values` with `scales`; ModelError where these do not fit."""
    require(tensors, "values", "scales")
    values: tuple[int, ...] = tuple(tensors["values"].shape)
    scales = tuple(tensors["scales"].shape)
    if len(values) < 2 or 0 in values or _groups(values, scales, blocks) is None:
        blocked = "" if blocks is None else f" in blocks of {blocks[0]} x {blocks[1]}"
        raise damaged(f"scales {list(scales)} do not fit a weight of {list(values)}{blocked}")
    return values


def scaled_layout(tensors: Mapping[str, Any], blocks: Blocks) -> CodesLayout:
    """That of `values` with `scales`."""
    groups = _groups(tuple(tensors["values"].shape), tuple(tensors["scales"].shape), blocks)
    columns: int = tensors["values"].shape[-1]
    if blocks is None or groups != "blocks":
        return CodesLayout(levels=256, group=columns)
    return CodesLayout(levels=256, group=blocks[1], added=_WIDE)


def scaled_codes(tensors: Mapping[str, torch.Tensor], blocks: Blocks) -> Codes:
    """`values` times `scales`."""
    import torch

    values, scales = tensors["values"], tensors["scales"].float()
    codes = values.view(torch.uint8)
    table = torch.arange(256, dtype=torch.uint8).view(values.dtype).float()
    if table.isnan().any() and bool(((codes & _NAN) == _NAN).any()):
        raise ModelError("some of its values are no numbers; fetch the checkpoint again")
    rows, columns = values.shape
    groups = _groups((rows, columns), tuple(scales.shape), blocks)
    if groups == "blocks" and blocks is not None:
        flat = scales.reshape(-(-rows // blocks[0]), -1)
        return Codes(codes=codes, table=table, group=blocks[1], scales=flat.repeat_interleave(blocks[0], 0)[:rows])
    return Codes(codes=codes, table=table, group=columns, scales=scales.reshape(-1, 1).expand(rows, 1))


def _groups(values: tuple[int, ...], scales: tuple[int, ...], blocks: Blocks) -> str | None:
    """What shares a scale; None where the shapes do not fit. Stacks of weights have stacks of scales."""
    *stack, rows, columns = values
    if tuple(scales[: len(stack)]) != tuple(stack):
        return None
    own = tuple(scales[len(stack) :])
    if blocks is not None and own in _in_blocks(-(-rows // blocks[0]), -(-columns // blocks[1])):
        return "blocks"
    if own in ((rows,), (rows, 1)):
        return "rows"
    return "all" if prod(own) == 1 and len(own) <= 2 else None


def _in_blocks(rows: int, columns: int) -> tuple[tuple[int, ...], ...]:
    return (rows, columns), (rows, 1, columns, 1)
