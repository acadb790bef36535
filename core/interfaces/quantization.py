"""Quantization formats: how checkpoints hold weights in fewer bits than they are served in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context, Ref

if TYPE_CHECKING:
    import torch


__all__ = ["BuiltQuantizationFormat", "QuantizationContext", "QuantizationFormat"]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationFormat(Component):
    """A format of quantized checkpoints. `build(QuantizationContext)` gives a BuiltQuantizationFormat.

    A checkpoint is in the format if "quant_method" of its config.json's "quantization_config" is the name of the
    format, or, where there is a `match`, if `match(config)` says so of the content of config.json. `build` and `match`
    are called before anything of the model is loaded, in every process; they import no torch.
    """

    kind: ClassVar[str] = "quantization_format"

    match: Ref | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationContext(Context):
    """`model_config` is the content of config.json."""

    model_config: Mapping[str, Any]


class BuiltQuantizationFormat(Protocol):
    """What belongs to a quantized weight and what comes out of it.

    A weight is held in any number of tensors, each with a role. `dtype` is the type of unpacked weights and `types` are
    the types of packed tensors, all as safetensors names them.
    """

    dtype: str
    types: frozenset[str]

    def weight(self, tensor: str, dtype: str) -> str | None:
        """The name of the weight that a checkpoint's tensor belongs to; None for a tensor that is not packed."""
        ...

    def tensors(self, weight: str) -> Mapping[str, str]:
        """The names of all tensors of a weight by their roles."""
        ...

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The shape of the weight whose tensors have these shapes, by role."""
        ...

    def unpack(self, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The weight, or an entry of a stacked one, of its tensors by role; ModelError where they do not fit."""
        ...
