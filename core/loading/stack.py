"""The layers of a model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from maxserve.core.interfaces.step_context import StepContext


class LayerStack(nn.ModuleList):
    """Layers that are called with hidden states [T, dim] and the step.

    `fused`, set once all layers are compiled, stands for all of them; it has no outputs of single ones (`aux_layers`).
    """

    fused: Callable[[Tensor, Sequence[StepContext]], Tensor] | None = None

    def forward(self, x: Tensor, steps: Sequence[StepContext], step: StepContext) -> Tensor:
        """[T, dim] to [T, dim]. `steps` are those of the layers, with their rotations; `step` is the model's own."""
        if self.fused is not None and not step.aux_layers:
            return self.fused(x, steps)
        for index, (layer, own) in enumerate(zip(self, steps, strict=True)):
            x = layer(x, own)
            step.keep(index, x)
        return x
