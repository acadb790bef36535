"""Checkpoints of bitsandbytes: 4-bit numbers by a table, and int8.

In 4 bits a weight [outputs, inputs] is `weight` uint8 [outputs * inputs / 2, 1], or the same bytes as fewer numbers of
another type, the first of two codes in the upper four bits. Its blocks, which go on from one row to the next, have the
largest magnitudes `absmax`; `quant_map` is the table and `quant_state` JSON with the shape. Magnitudes may be quantized
themselves: uint8 by `nested_quant_map`, times `nested_absmax` of their block, plus "nested_offset". In 8 bits it is
`weight` int8 and `SCB` [outputs], 127 scales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd, isfinite
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.quantization.parts import FLOATS, computed_type, damaged, listed, of_types, require

if TYPE_CHECKING:
    import torch

_STATES = (".quant_state.bitsandbytes__nf4", ".quant_state.bitsandbytes__fp4")
_SIZES = {"U8": 1, "I8": 1, "F16": 2, "BF16": 2, "F32": 4}  # of the types that bytes of codes are stored as
_ENDINGS = {
    ".weight.absmax": "absmax",
    ".weight.quant_map": "quant_map",
    ".weight.nested_absmax": "nested_absmax",
    ".weight.nested_quant_map": "nested_quant_map",
    **{f".weight{state}": "quant_state" for state in _STATES},
    ".SCB": "SCB",
    ".weight_format": "weight_format",  # how int8 lay on a GPU
}
_TYPES = {
    "absmax": FLOATS | {"U8"},
    "quant_map": FLOATS,
    "nested_absmax": FLOATS,
    "nested_quant_map": FLOATS,
    "SCB": FLOATS,
}
_STATE = 4096  # bytes that it has at most
_WHOLE = 127
_BLOCK = 4096  # numbers at most


class Bitsandbytes:
    """A BuiltQuantizationFormat that HasCodes, SeesOthers and ReadsContents."""

    types = frozenset({"U8", "I8"})
    contents = frozenset({"quant_state", "weight_format"})

    def __init__(self, context: QuantizationContext) -> None:
        settings = context.model_config["quantization_config"]
        self.dtype = computed_type(context.model_config)
        narrow = bool(settings.get("load_in_4bit") or settings.get("_load_in_4bit"))
        self.encoding = str(settings.get("bnb_4bit_quant_type", "fp4")) if narrow else "int8"

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        for ending, role in _ENDINGS.items():
            if tensor.endswith(ending):
                return tensor.removesuffix(ending) + ".weight", role
        return (tensor, "weight") if dtype in self.types and tensor.endswith(".weight") else None

    def part_among(self, tensor: str, types: Mapping[str, str]) -> tuple[str, str] | None:
        if any(f"{tensor}{state}" in types for state in _STATES):
            return tensor, "weight"
        return self.part(tensor, types[tensor])

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        of_types(tensors, _TYPES | {"weight": {"I8"} if "SCB" in tensors else _SIZES})
        if "SCB" in tensors:
            require(tensors, "weight")
            _check_order(tensors.get("weight_format"))
            weight = tensors["weight"].shape
            if len(weight) != 2 or tensors["SCB"].shape != weight[:1]:
                raise damaged(f"{listed(tensors)} do not make up an int8 weight of bitsandbytes")
            return weight
        require(tensors, "weight", "absmax", "quant_map", "quant_state")
        state = _state_of(tensors["quant_state"].content)
        _check(tensors, state)
        return state.shape

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        if "SCB" in tensors:
            return CodesLayout(levels=256, group=tensors["weight"].shape[1])
        state = _state_of(tensors["quant_state"].content)
        nested = tensors["absmax"].dtype == "U8"
        return CodesLayout(levels=16, group=gcd(state.shape[1], state.block), added=3 if nested else 0)

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        if "SCB" in tensors:
            return _whole_numbers(tensors)
        import torch

        state = _state_of(tensors["quant_state"])
        outputs, inputs = state.shape
        group = gcd(inputs, state.block)
        packed = tensors["weight"].flatten().view(torch.uint8)
        codes = torch.stack((packed >> 4, packed & 15), dim=-1).flatten()[: outputs * inputs]
        scales = _magnitudes(tensors, state).repeat_interleave(state.block // group)[: outputs * inputs // group]
        return Codes(
            codes=codes.view(outputs, inputs),
            table=tensors["quant_map"].float(),
            group=group,
            scales=scales.view(outputs, -1),
        )


def _whole_numbers(tensors: Mapping[str, torch.Tensor]) -> Codes:
    import torch

    weight = tensors["weight"]
    return Codes(
        codes=weight.view(torch.uint8),
        table=torch.arange(256, dtype=torch.uint8).view(torch.int8).float(),
        group=weight.shape[1],
        scales=(tensors["SCB"].float() * torch.tensor(1 / _WHOLE))[:, None],
    )


def _magnitudes(tensors: Mapping[str, torch.Tensor], state: _State) -> torch.Tensor:
    """The largest magnitude of each block."""
    import torch

    magnitudes = tensors["absmax"]
    if magnitudes.dtype != torch.uint8:
        return magnitudes.float()
    blocks = tensors["nested_absmax"].float().repeat_interleave(state.nested_block)[: len(magnitudes)]
    return tensors["nested_quant_map"].float()[magnitudes.int()] * blocks + state.nested_offset


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What the JSON of a weight says."""

    shape: tuple[int, int]
    block: int
    nested_block: int
    nested_offset: float


def _state_of(content: torch.Tensor | None) -> _State:
    """ModelError where the JSON does not say what is needed."""
    if content is None or content.numel() > _STATE or content.element_size() != 1:
        raise damaged("its quant_state is too long to be one of bitsandbytes")
    try:
        parsed: Any = json.loads(bytes(content.flatten().tolist()))
        rows, columns = (_count(size) for size in parsed["shape"])
        state = _State(
            shape=(rows, columns),
            block=_count(parsed["blocksize"]),
            nested_block=_count(parsed.get("nested_blocksize", 1)),
            nested_offset=float(parsed.get("nested_offset", 0.0)),
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(f"its quant_state is not one of bitsandbytes ({type(error).__name__}: {error})") from error
    if min(state.shape) < 1 or not isfinite(state.nested_offset):
        raise damaged(f"its quant_state has the shape {list(state.shape)}, and the offset {state.nested_offset}")
    for block in (state.block, state.nested_block):
        if not 1 <= block <= _BLOCK or block & block - 1:
            raise damaged(f"its quant_state has blocks of {block}, not of a power of two up to {_BLOCK}")
    return state


def _count(number: object) -> int:
    if type(number) is not int:
        raise TypeError(f"{number!r:.60} is no whole number")
    return number


def _check_order(info: TensorInfo | None) -> None:
    """ModelError where int8 lies in the order of tiles of a GPU."""
    content = None if info is None else info.content
    if content is not None and (content.numel() != 1 or content.item() != 0):
        raise ModelError(
            f"its weight_format is {content.flatten()[:4].tolist()}, numbers in the order in which a GPU took them; "
            "save it again with bitsandbytes >= 0.45, which keeps rows (0)"
        )


def _check(tensors: Mapping[str, TensorInfo], state: _State) -> None:
    """ModelError where the tensors are not so long as the shape says."""
    count = state.shape[0] * state.shape[1]
    blocks = -(-count // state.block)
    expected = {"weight": -(-count // (2 * _SIZES[tensors["weight"].dtype])), "absmax": blocks, "quant_map": 16}
    if tensors["absmax"].dtype == "U8":
        require(tensors, "nested_absmax", "nested_quant_map")
        expected |= {"nested_absmax": -(-blocks // state.nested_block), "nested_quant_map": 256}
    for role, length in expected.items():
        if _length(tensors[role].shape) != length:
            raise damaged(
                f"{listed(tensors)} do not make up a weight {list(state.shape)} of bitsandbytes in blocks of "
                f"{state.block}"
            )


def _length(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor of one axis has, or of one more of 1; -1 for others."""
    return shape[0] if shape[1:] in ((), (1,)) and shape else -1
