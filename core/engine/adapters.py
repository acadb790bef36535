"""The adapters of a model: their slots, and the way of a step's slots to the projections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from maxserve.core.interfaces.adapter import AdapterContext, Projection
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.loading.linear import ExactLinear, Linear

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.adapter import AdapterTable, Correction
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.runner import ModelOutput, Runner
    from maxserve.core.registry.protocol import Host

_HEAD = "lm_head"  # is called with other rows than those of the step


class AdapterSlots:
    """The slots of the rows of the step that runs, which projections have by reference; None: no row has an adapter."""

    __slots__ = ("rows",)

    def __init__(self) -> None:
        self.rows: Tensor | None = None


class BoundCorrection:
    """A projection's correction with the slots that it asks at each call."""

    def __init__(self, correction: Correction, slots: AdapterSlots) -> None:
        self._correction, self._slots = correction, slots

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        rows = self._slots.rows
        return out if rows is None else self._correction(x, out, rows)


class AdapterRunner:
    """A Runner that sets the slots of each step before another one runs it."""

    def __init__(self, runner: Runner, slots: AdapterSlots) -> None:
        self._runner, self._slots = runner, slots

    def run(self, inputs: StepInputs) -> ModelOutput:
        self._slots.rows = inputs.adapter_slots
        return self._runner.run(inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._runner.logits(hidden)


def adapt(
    host: Host, sections: Mapping[type[Any], Any], model: nn.Module, compute: torch.dtype, device: torch.device
) -> tuple[dict[str, int], AdapterSlots]:
    """Has the declared adapters correct the model's projections; returns the slots of the adapters by name."""
    slots, context = AdapterSlots(), AdapterContext(sections=sections, compute=compute, device=device)
    tables = [(entry, host.build(entry, context)) for entry in host.adapters]
    serving = [(entry, table) for entry, table in tables if table.names()]
    if len(serving) > 1:
        titles = " and ".join(entry.title for entry, _ in serving)
        raise SettingsError(f"{titles} both have adapters to serve, and a model takes those of one; leave one out")
    if not serving:
        return {}, slots
    table: AdapterTable = serving[0][1]
    for name, module in model.named_modules():
        if isinstance(module, Linear) and not isinstance(module, ExactLinear) and name != _HEAD:
            correction = table.correction(_projection(name, module))
            module.correction = None if correction is None else BoundCorrection(correction, slots)
    return {name: slot for slot, name in enumerate(table.names(), start=1)}, slots


def _projection(name: str, module: Linear) -> Projection:
    parts = {part: sizes.size for part, sizes in module.parts.items() if part}
    return Projection(name=name, inputs=module.inputs, outputs=module.outputs, parts=parts)
