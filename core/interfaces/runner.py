"""Model runners: the forward pass of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.architecture import Model
    from maxserve.core.interfaces.attention import Attention
    from maxserve.core.interfaces.inputs import StepInputs


__all__ = ["ModelOutput", "ModelRunner", "Runner", "RunnerContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRunner(Component):
    """A way to run a model. `build(RunnerContext)` gives a Runner.

    Which one serves is decided as for attention back ends.
    """

    kind: ClassVar[str] = "model_runner"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerContext(Context):
    """The model has its weights, and its layers are compiled where they can be.

    `aux_layers`, ascending, are those whose outputs shall be in `ModelOutput.aux_hidden`.
    """

    model: Model
    attention: Attention
    vocab_size: int
    device: torch.device
    aux_layers: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """What a forward pass gives.

    `logits` [R, vocab_size] of the step's `logit_rows`, None where it has none; `hidden` [T, dim] after the last norm;
    `aux_hidden`, the outputs of the layers that were asked for, each [T, dim].
    """

    logits: torch.Tensor | None
    hidden: torch.Tensor
    aux_hidden: tuple[torch.Tensor, ...] = ()


class Runner(Protocol):
    """Runs a model, a step at a time and from one thread."""

    def run(self, inputs: StepInputs) -> ModelOutput:
        """Computes the step and stores all its keys and values.

        The attention begins with every step that has sequences. With `--execute-empty-batches` there are steps without.
        """
        ...

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [rows, vocab_size] of further rows of hidden states [rows, dim], such as those of prompts."""
        ...
