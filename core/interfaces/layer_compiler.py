"""Layer compilers: one call for a whole layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.core.interfaces.adapter import Correction
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.step_context import StepContext


__all__ = [
    "CompiledDrafts",
    "CompilesCorrections",
    "CompilesDrafts",
    "CompilesLayers",
    "CompilesStacks",
    "KeepsOutputs",
    "LayerCompiler",
    "LayerContext",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCompiler(Component):
    """A way to make one call of a whole layer. `build(LayerContext)` gives a CompilesLayers.

    Which one serves is decided as for attention back ends; a layer that it cannot compile runs as it was written.
    """

    kind: ClassVar[str] = "layer_compiler"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext(Context):
    compute: torch.dtype
    device: torch.device


class CompilesLayers(Protocol):
    """Makes one call of the many operations of a layer."""

    def compile(self, layer: torch.nn.Module, attention: Attention) -> Callable[..., torch.Tensor] | None:
        """What stands for `layer(x, step)`, where `attention` is that of every step; None if nothing can.

        The weights are loaded. `layer` may be of a class that is unknown here: what it computes is found by tracing.
        """
        ...


@runtime_checkable
class CompilesStacks(Protocol):
    """A CompilesLayers that also makes one call of all layers of a model."""

    def compile_stack(
        self, calls: Sequence[Callable[..., torch.Tensor]]
    ) -> Callable[[torch.Tensor, Sequence[StepContext]], torch.Tensor] | None:
        """What stands for `calls`, which `compile` gave, one after another; None if nothing can.

        It is called with the input of the first and the step of each.
        """
        ...


@runtime_checkable
class KeepsOutputs(Protocol):
    """A call of several layers that also gives the outputs of some of them, as draft heads read them.

    Where `compile_stack` gives another, there are as many calls as there are such layers, and one more.
    """

    def __call__(self, x: torch.Tensor, steps: Sequence[StepContext]) -> torch.Tensor: ...

    def keeping(
        self, x: torch.Tensor, steps: Sequence[StepContext], layers: Sequence[int]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What the call gives, and the outputs [T, dim] of `layers`, each before the last, as tensors of their own."""
        ...


class CompiledDrafts(Protocol):
    """What stands for a cell of a draft head that is called again and again; see `DraftChain`."""

    def __call__(
        self,
        x: torch.Tensor,
        first: StepContext,
        lasts: NDArray[np.int64],
        then: StepContext | None,
        on: NDArray[np.int64],
        table: torch.nn.Module,
        ids: torch.Tensor | None,
    ) -> torch.Tensor | None: ...


@runtime_checkable
class CompilesDrafts(Protocol):
    """A CompilesLayers that also computes the drafts of a head in one call."""

    def compile_drafts(self, call: Callable[..., torch.Tensor]) -> CompiledDrafts | None:
        """What calls `call`, which `compile` gave for the cell, once for each draft; None if nothing can."""
        ...


@runtime_checkable
class CompilesCorrections(Protocol):
    """A CompilesLayers that corrects projections as adapters ask; others are not given layers with corrections."""

    def corrects(self, correction: Correction) -> bool:
        """Whether calls that it makes carry out this correction, with the `adapter_rows` of each step."""
        ...
