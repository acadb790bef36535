"""The layers of a model, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, cast

from torch import Tensor, nn

from maxserve.core.interfaces.layer_compiler import KeepsOutputs

if TYPE_CHECKING:
    from maxserve.core.interfaces.layer_compiler import CompiledDrafts
    from maxserve.core.interfaces.step_context import StepContext

FusedLayers: TypeAlias = "Callable[[Tensor, Sequence[StepContext]], Tensor]"


class LastModule(nn.Module):
    """What is behind the layers, called as they are."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        out: Tensor = self.module(x)
        return out


class LayerStack(nn.ModuleList):
    """Layers that are called with hidden states [T, dim] and the step, and a module behind them, a norm, say.

    `last`, which has its name in checkpoints elsewhere, is called as the layers are. `fuse`, set once all layers are
    compiled, makes one call of those from one layer to before another: of all, or, where outputs of single ones are
    wanted (`aux_layers`) that it does not give besides (KeepsOutputs), up to each of these. `fuses_last`: it counts the
    last module as one layer more.
    """

    fuse: Callable[[int, int], FusedLayers | None] | None = None
    fuses_last: bool = False

    def __init__(self, layers: Iterable[nn.Module] = (), last: nn.Module | None = None) -> None:
        super().__init__(layers)
        self._last = () if last is None else (LastModule(last),)  # no attribute, which would name its weights again
        self._spans: dict[tuple[int, ...], list[tuple[int, int, FusedLayers]]] = {}  # by the outputs that are wanted

    @property
    def last(self) -> LastModule | None:
        return self._last[0] if self._last else None

    def forward(self, x: Tensor, steps: Sequence[StepContext], step: StepContext) -> Tensor:
        """[T, dim] to [T, dim]. `steps` are those of the layers, with their rotations; `step` is the model's own."""
        calls = self._calls(step.aux_layers)
        if not calls:
            for index, (layer, own) in enumerate(zip(self, steps, strict=True)):
                x = layer(x, own)
                step.keep(index, x)
        steps = [*steps, *steps[-1:]] if self.fuses_last else steps
        for start, stop, call in calls:
            within = [layer for layer in sorted(step.aux_layers) if start <= layer < stop - 1]
            if within:
                x, kept = cast("KeepsOutputs", call).keeping(x, steps[start:stop], [layer - start for layer in within])
                step.aux_hidden += kept
            else:
                x = call(x, steps[start:stop])
            step.keep(stop - 1, x)
        return x if not self._last or (calls and self.fuses_last) else self._last[0](x, step)

    def _calls(self, wanted: tuple[int, ...]) -> list[tuple[int, int, FusedLayers]]:
        """Calls that give each output that is wanted, and the last; none where these cannot be made.

        One with an output that is wanted before its last one is a KeepsOutputs.
        """
        if wanted not in self._spans:
            self._spans[wanted] = self._fused_spans(wanted)
        return self._spans[wanted]

    def _fused_spans(self, wanted: tuple[int, ...]) -> list[tuple[int, int, FusedLayers]]:
        if self.fuse is None:
            return []
        end = len(self) + self.fuses_last
        whole = self.fuse(0, end)
        if whole is not None and (not wanted or isinstance(whole, KeepsOutputs)):
            return [(0, end, whole)]
        stops = sorted({*(layer + 1 for layer in wanted), end})
        spans = [(start, stop, self.fuse(start, stop)) for start, stop in pairwise((0, *stops))]
        made = [(start, stop, call) for start, stop, call in spans if call is not None]
        return made if len(made) == len(spans) else []


class DraftChain(nn.Module):
    """A cell of a draft head, which makes each draft of the one before.

    The cell is called with [T, 2 * dim], the embedding of the token that follows and the hidden state side by side, and
    the step; it gives [T, dim + tokens], the next state and logits side by side. `fused`, set where the cell is
    compiled, computes all drafts of a step.
    """

    fused: CompiledDrafts | None = None

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self._cell = (cell,)  # no attribute, which would name its weights again

    @property
    def cell(self) -> nn.Module:
        return self._cell[0]
