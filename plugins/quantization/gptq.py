"""GPTQ checkpoints: arXiv 2210.17323, as AutoGPTQ, GPTQModel and optimum write them.

A weight [outputs, inputs] is `qweight` int32 [inputs * bits / 32, outputs], whose columns hold the codes of an output
one after another; `scales` [groups, outputs]; `qzeros` int32 [groups, outputs * bits / 32], whose rows hold the zeros.
They are stored less one, modulo 2 ** bits, unless "checkpoint_format" is gptq_v2. `g_idx` [inputs] is the group of each
input.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.quantization.parts import (
    FLOATS,
    INDICES,
    WORD,
    WORDS,
    computed_type,
    counted,
    damaged,
    fields,
    group_size,
    listed,
    module_part,
    of_types,
    one_of,
    order_of,
    require,
    shared_by,
)

if TYPE_CHECKING:
    import torch

BITS = (2, 3, 4, 8)
_FORMATS = ("gptq", "gptq_v2")
_TYPES = {"qweight": WORDS, "qzeros": WORDS, "scales": FLOATS, "g_idx": INDICES}
_ROLES = tuple(_TYPES)


class Gptq:
    """A BuiltQuantizationFormat that HasCodes and LeavesOut."""

    encoding = "gptq"
    types = frozenset({"I32"})

    def __init__(self, context: QuantizationContext) -> None:
        settings = context.model_config["quantization_config"]
        self.dtype = computed_type(context.model_config)
        self._bits = one_of(settings, "bits", BITS)
        self._group = group_size(settings)
        self._varied = bool(settings.get("dynamic"))  # modules have bits and groups of their own
        kind = settings.get("checkpoint_format") or settings.get("format") or "gptq"
        if kind not in _FORMATS:
            raise ModelError(
                f"GPTQ weights are read in the formats {' and '.join(_FORMATS)}, and 'checkpoint_format' "
                f"is {kind!r:.60}; use a checkpoint in one of these"
            )
        self._less = 1 if kind == "gptq" else 0

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return module_part(tensor, _ROLES)

    def left_out(self, tensor: str, content: torch.Tensor) -> bool:
        return tensor.endswith(".bias") and not content.any()  # AutoGPTQ writes one for every module

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        of_types(tensors, _TYPES)
        sizes = self._sizes(tensors)
        return sizes.outputs, sizes.inputs

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        sizes = self._sizes(tensors)
        return CodesLayout(levels=1 << sizes.bits, group=sizes.group, added=1)  # a zero takes a byte

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        sizes = self._sizes(tensors)
        codes = fields(tensors["qweight"].t(), sizes.bits)
        order = None
        if "g_idx" in tensors:
            order = order_of(tensors["g_idx"], sizes.group, len(tensors["scales"]))
        zeros = (fields(tensors["qzeros"], sizes.bits).t().int() + self._less) % (1 << sizes.bits)
        table, varied = counted(sizes.bits, zeros)
        return Codes(
            codes=codes if order is None else codes[:, order],
            table=table,
            group=sizes.group,
            scales=tensors["scales"].t(),
            zeros=varied,
            order=order,
        )

    def _sizes(self, tensors: Mapping[str, Any]) -> Sizes:
        """What the shapes of the tensors say; ModelError where they do not fit together."""
        require(tensors, "qweight", "qzeros", "scales")
        shapes = {role: tuple(tensor.shape) for role, tensor in tensors.items()}
        sizes = _sizes_of(shapes, None if self._varied else self._bits, self._group)
        if sizes is None:
            width = "" if self._varied else f" of {self._bits} bits"
            raise damaged(f"{listed(tensors)} do not make up a GPTQ weight{width} in groups of {self._group}")
        return sizes


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """A weight's, and those of its codes."""

    outputs: int
    inputs: int
    bits: int
    group: int


def _sizes_of(shapes: Mapping[str, tuple[int, ...]], bits: int | None, group: int) -> Sizes | None:
    if any(len(shapes[role]) != 2 or 0 in shapes[role] for role in ("qweight", "qzeros", "scales")):
        return None
    (words, outputs), (groups, across) = shapes["qweight"], shapes["qzeros"]
    found, rest = divmod(across * WORD, outputs)
    if shapes["scales"] != (groups, outputs) or rest or found not in BITS or bits not in (None, found):
        return None
    inputs, rest = divmod(words * WORD, found)
    size = shared_by(inputs, groups, group, varied=bits is None)
    if rest or size is None or shapes.get("g_idx", (inputs,)) != (inputs,):
        return None
    return Sizes(outputs=outputs, inputs=inputs, bits=found, group=size)
