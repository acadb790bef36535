"""The corrections of adapters, bound to the rows of the step or of the image that they are called in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from maxserve.core.interfaces.inputs import AdapterRows, ExpertRows

if TYPE_CHECKING:
    from maxserve.core.interfaces.adapter import Correction, LatentCorrection


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
