"""AWQ checkpoints in the "gemm" layout of AutoAWQ: arXiv 2306.00978.

A weight [outputs, inputs] is `qweight` int32 [inputs, outputs / 8], `scales` [groups, outputs] and `qzeros` int32
[groups, outputs / 8]. The eight numbers of a word, from the lowest bits on, are of outputs 0, 2, 4, 6, 1, 3, 5, 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.quantization import QuantizationContext
from maxserve.interfaces.weight_format import TensorInfo
from maxserve.plugins.quantization.parts import (
    FLOATS,
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
    require,
    shared_by,
)

if TYPE_CHECKING:
    import torch

_BITS = 4
_PER_WORD = 8
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)  # where in a word the number of each output is
_GEMM, _OTHER = "gemm", "llm-awq"
_TYPES = {"qweight": WORDS, "qzeros": WORDS, "scales": FLOATS}
_ROLES = tuple(_TYPES)


class Awq:
    """A BuiltQuantizationFormat that HasCodes."""

    encoding = "awq"
    types = frozenset({"I32"})

    def __init__(self, context: QuantizationContext) -> None:
        settings = context.model_config["quantization_config"]
        self.dtype = computed_type(context.model_config)
        one_of(settings, "w_bit" if "w_bit" in settings else "bits", (_BITS,))
        self._group = group_size(settings, "q_group_size" if "q_group_size" in settings else "group_size")
        _check_layout(settings)

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return module_part(tensor, _ROLES)

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        of_types(tensors, _TYPES)
        outputs, inputs, _ = self._sizes(tensors)
        return outputs, inputs

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return CodesLayout(levels=1 << _BITS, group=self._sizes(tensors)[2], added=1)  # a zero takes a byte

    def codes(self, tensors: Mapping[str, torch.Tensor]) -> Codes:
        table, zeros = counted(_BITS, _in_order(tensors["qzeros"]).t())
        return Codes(
            codes=_in_order(tensors["qweight"]).t(),
            table=table,
            group=self._sizes(tensors)[2],
            scales=tensors["scales"].t(),
            zeros=zeros,
        )

    def _sizes(self, tensors: Mapping[str, Any]) -> tuple[int, int, int]:
        """Outputs, inputs and how many of these a group has; ModelError where the tensors do not fit together."""
        require(tensors, *_ROLES)
        packed, zeros, scales = (tuple(tensors[role].shape) for role in _ROLES)
        if len(packed) == len(scales) == 2 and 0 not in packed + scales:
            inputs, outputs = packed[0], packed[1] * _PER_WORD
            group = shared_by(inputs, scales[0], self._group)
            if group is not None and scales[1] == outputs and zeros == (scales[0], packed[1]):
                return outputs, inputs, group
        raise damaged(f"{listed(tensors)} do not make up an AWQ weight in groups of {self._group}")


def _check_layout(settings: Mapping[str, Any]) -> None:
    """ModelError where words hold numbers in another order; other backends than llm-awq are kernels for this one."""
    known = {key: settings.get(key) or _GEMM for key in ("version", "format", "checkpoint_format")}
    wrong = {key: value for key, value in known.items() if str(value).lower() != _GEMM}
    if str(settings.get("backend")).lower() == _OTHER:
        wrong["backend"] = _OTHER
    for key, value in wrong.items():
        raise ModelError(
            f"AWQ weights are read in the layout {_GEMM} of AutoAWQ, and {key!r} is {value!r:.60}; use a "
            "checkpoint in that layout"
        )


def _in_order(words: torch.Tensor) -> torch.Tensor:
    """The numbers in words [..., n], in the order of outputs: [..., 8 n]."""
    numbers = fields(words, _BITS)
    return numbers.reshape(*numbers.shape[:-1], -1, _PER_WORD)[..., list(_PLACES)].flatten(-2)
