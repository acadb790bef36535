"""The layers of a model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn

if TYPE_CHECKING:
    from maxserve.core.interfaces.step_context import StepContext

FusedLayers: TypeAlias = "Callable[[Tensor, Sequence[StepContext]], Tensor]"


class LayerStack(nn.ModuleList):
    """Layers that are called with hidden states [T, dim] and the step.

    `fused`, set once all layers are compiled, stands for all of them, and what `fuse` makes for those from one layer to
    before another: where outputs of single ones are wanted (`aux_layers`), there is a call up to each of these.
    """

    fused: FusedLayers | None = None
    fuse: Callable[[int, int], FusedLayers | None] | None = None

    def __init__(self, layers: Iterable[nn.Module] = ()) -> None:
        super().__init__(layers)
        self._spans: dict[tuple[int, ...], list[tuple[int, int, FusedLayers]]] = {}  # by the outputs that are wanted

    def forward(self, x: Tensor, steps: Sequence[StepContext], step: StepContext) -> Tensor:
        """[T, dim] to [T, dim]. `steps` are those of the layers, with their rotations; `step` is the model's own."""
        if self.fused is not None and not step.aux_layers:
            return self.fused(x, steps)
        if spans := self._fused_spans(step.aux_layers):
            for start, stop, call in spans:
                x = call(x, steps[start:stop])
                step.keep(stop - 1, x)
            return x
        for index, (layer, own) in enumerate(zip(self, steps, strict=True)):
            x = layer(x, own)
            step.keep(index, x)
        return x

    def _fused_spans(self, wanted: tuple[int, ...]) -> list[tuple[int, int, FusedLayers]]:
        """Calls that end at each layer whose output is wanted, and at the last; none where these cannot be made."""
        if self.fuse is None:
            return []
        if wanted not in self._spans:
            stops = sorted({*(layer + 1 for layer in wanted), len(self)})
            spans = [(start, stop, self.fuse(start, stop)) for start, stop in pairwise((0, *stops))]
            made = [(start, stop, call) for start, stop, call in spans if call is not None]
            self._spans[wanted] = made if len(made) == len(spans) else []
        return self._spans[wanted]
