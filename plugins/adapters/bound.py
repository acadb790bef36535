"""The corrections of adapters, bound to the rows of the step or of the image that they are called in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maxserve.interfaces.inputs import AdapterRows, ExpertRows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.interfaces.adapter import Correction, LatentCorrection
    from maxserve.interfaces.inputs import StepInputs
    from maxserve.interfaces.runner import ModelOutput, Runner


class StepRows:
    """The rows of the step that runs, which projections have by reference; None: no row has an adapter.

    `head` are those of the rows whose logits are wanted.
    """

    __slots__ = ("head", "rows")

    def __init__(self) -> None:
        self.rows: AdapterRows | None = None
        self.head: AdapterRows | None = None

    def of_experts(self, tokens: Tensor, ends: Tensor) -> ExpertRows | None:
        """Those of rows that experts compute: of these tokens of the step, and of expert e up to `ends[e]`."""
        if self.rows is None:
            return None
        slots = self.rows.adapter_slots[tokens].cpu().numpy()
        experts = np.repeat(np.arange(len(ends)), np.diff(ends.cpu().numpy(), prepend=0))
        adapted = np.flatnonzero(slots)
        pairs = experts[adapted] * (slots.max(initial=0) + 1) + slots[adapted]
        order = adapted[np.argsort(pairs, kind="stable")]
        _, starts = np.unique(np.sort(pairs), return_index=True)
        stops = np.append(starts[1:], len(order))
        groups = np.stack([slots[order[starts]], experts[order[starts]], starts, stops], axis=1).astype(np.int64)
        return ExpertRows(order=torch.from_numpy(order).to(tokens.device), groups=np.ascontiguousarray(groups))


class AdaptedRunner:
    """A Runner that sets the rows of each step while another one runs it."""

    def __init__(self, runner: Runner, step: StepRows) -> None:
        self._runner, self._step = runner, step

    def run(self, inputs: StepInputs) -> ModelOutput:
        self._step.rows, self._step.head = inputs.adapter_rows, inputs.logit_adapter_rows
        try:
            return self._runner.run(inputs)
        finally:
            self._step.rows = self._step.head = None  # who calls parts of the model beside steps has no adapter

    def logits(self, hidden: Tensor, slots: NDArray[np.int64] | None = None) -> Tensor:
        """Those of further rows, whose adapters are in these slots."""
        self._step.head = None if slots is None else rows_by_slot(slots, hidden.device)
        try:
            return self._runner.logits(hidden)
        finally:
            self._step.head = None


def rows_by_slot(rows: NDArray[np.int64], device: torch.device) -> AdapterRows | None:
    """The rows by adapter, of rows with these slots; None where none has an adapter."""
    if not rows.any():
        return None
    order = np.argsort(rows, kind="stable")[len(rows) - np.count_nonzero(rows) :]
    found, starts = np.unique(rows[order], return_index=True)
    groups = np.stack([found, starts, np.append(starts[1:], len(order))], axis=1)

    def moved(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return AdapterRows(adapter_slots=moved(rows), order=moved(order), groups=np.ascontiguousarray(groups))


class BoundCorrection:
    """A projection's correction with the rows that it asks at each call."""

    def __init__(self, correction: Correction, step: StepRows) -> None:
        self.correction, self.step = correction, step

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        return self._corrected(x, out, self.step.rows)

    def _corrected(self, x: Tensor, out: Tensor, rows: AdapterRows | None) -> Tensor:
        """Of [..., inputs] and [..., outputs], whatever axes the rows lie along."""
        if rows is None or not out.numel():
            return out
        flat = out.reshape(-1, out.shape[-1])
        return self.correction(x.reshape(len(flat), *x.shape[out.dim() - 1 :]), flat, rows).view(out.shape)


class BoundHeadCorrection(BoundCorrection):
    """That of a projection which is called with rows whose logits are wanted."""

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        return self._corrected(x, out, self.step.head)


class TowerRows:
    """The slot of the adapter with which a tower computes an image, set while it does; 0: none."""

    __slots__ = ("slot",)

    def __init__(self) -> None:
        self.slot = 0


class BoundTowerCorrection(BoundCorrection):
    """That of a projection whose rows are all of one image."""

    def __init__(self, correction: Correction, tower: TowerRows) -> None:
        super().__init__(correction, StepRows())
        self._tower = tower

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        slot, count = self._tower.slot, out.numel() // out.shape[-1]
        if not slot:
            return out
        order = torch.arange(count, device=out.device)
        groups = np.array([[slot, 0, count]], dtype=np.int64)
        return self._corrected(
            x, out, AdapterRows(adapter_slots=torch.full_like(order, slot), order=order, groups=groups)
        )


class BoundLatentCorrection:
    """The same of a projection that is never made whole, of latent vectors."""

    def __init__(self, correction: LatentCorrection, step: StepRows) -> None:
        self.correction, self.step = correction, step

    def to_latent(self, q: Tensor, out: Tensor) -> Tensor:
        rows = self.step.rows
        return out if rows is None else self.correction.to_latent(q, out, rows)

    def to_values(self, seen: Tensor, out: Tensor) -> Tensor:
        rows = self.step.rows
        return out if rows is None else self.correction.to_values(seen, out, rows)
