"""What LoRA adapters change in the outcomes of projections, a class for each way that projections are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maxserve.interfaces.adapter import AdapterContext, Projection

if TYPE_CHECKING:
    from maxserve.interfaces.inputs import AdapterRows, ExpertRows


@dataclass(frozen=True, slots=True)
class Packed:
    """What fills a slot of one projection: down [experts, inputs, parts, rank] and up [experts, rank, outputs]."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[-2]


class LoRACorrection:
    """A LowRank. Adds x · down · up of the slot to each row that has one, in the type that rows are rounded to."""

    def __init__(self, projection: Projection, slots: int, rank: int, context: AdapterContext) -> None:
        self.parts = part_sizes(projection)
        self._ends = ends_of(self.parts)
        self._inputs, self._outputs = projection.inputs, projection.outputs
        dtype, device, rank = context.rows, context.device, rank * projection.experts
        self.down = torch.zeros(slots, projection.inputs * len(self.parts) * rank, dtype=dtype, device=device)
        self.up = torch.zeros(slots, projection.outputs * rank, dtype=dtype, device=device)
        self.ranks = torch.zeros(slots, dtype=torch.int64)

    def place(self, packed: Packed | None, slot: int) -> None:
        """Has the slot hold this; None: its adapter changes nothing here."""
        index = slot - 1
        self.ranks[index] = 0 if packed is None else packed.rank
        if packed is not None:
            self.down[index, : packed.down.numel()] = packed.down.flatten()
            self.up[index, : packed.up.numel()] = packed.up.flatten()

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        for slot, start, stop in rows.groups.tolist():
            rank = int(self.ranks[slot - 1])
            if rank:
                own = rows.order[start:stop]
                out.index_add_(0, own, self._change(x.index_select(0, own), slot - 1, rank).to(out.dtype))
        return out

    def _change(self, x: Tensor, index: int, rank: int, expert: int = 0) -> Tensor:
        width = len(self.parts) * rank
        size = self._inputs * width
        made = self._reduced(x, self.down[index, expert * size : (expert + 1) * size].view(self._inputs, width))
        size = self._outputs * rank
        up = self.up[index, expert * size : (expert + 1) * size].view(rank, self._outputs)
        if len(self.parts) == 1:
            return torch.mm(made, up)
        parts = made.view(-1, len(self.parts), rank)
        return torch.cat([parts[:, i] @ up[:, a:b] for i, (a, b) in enumerate(pairwise(self._ends))], dim=-1)

    def _reduced(self, x: Tensor, down: Tensor) -> Tensor:
        """x · down, [rows, width]."""
        return x.to(down.dtype) @ down


class EmbeddingCorrection(LoRACorrection):
    """Adds down[id] · up of the slot to the row of each token that has one."""

    def _reduced(self, x: Tensor, down: Tensor) -> Tensor:
        return down.index_select(0, x)


class ExpertsCorrection(LoRACorrection):
    """Adds x · down · up of slot and expert to each row that has one."""

    def __call__(self, x: Tensor, out: Tensor, rows: ExpertRows) -> Tensor:  # type: ignore[override]
        adapted = x.index_select(0, rows.order)
        for slot, expert, start, stop in rows.groups.tolist():
            rank = int(self.ranks[slot - 1])
            if rank:
                change = self._change(adapted[start:stop], slot - 1, rank, expert)
                out.index_add_(0, rows.order[start:stop], change.to(out.dtype))
        return out


class LatentLoRACorrection(LoRACorrection):
    """A LatentCorrection: products with the two factors in turn, on either side of attention."""

    def to_latent(self, q: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        for own, down, up in self._groups(rows, q.shape[1]):
            keys = torch.einsum("thd,rhd->thr", q[own].to(up.dtype), up[..., : q.shape[2]])
            out.index_add_(0, own, (keys @ down.T).to(out.dtype))
        return out

    def to_values(self, seen: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        for own, down, up in self._groups(rows, seen.shape[1]):
            made = torch.einsum("thr,rhd->thd", seen[own].to(down.dtype) @ down, up[..., -out.shape[2] :])
            out.index_add_(0, own, made.to(out.dtype))
        return out

    def _groups(self, rows: AdapterRows, heads: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows of each slot that has factors, and these: down [inputs, rank], up [rank, heads, outputs of a head]."""
        for slot, start, stop in rows.groups.tolist():
            rank, index = int(self.ranks[slot - 1]), slot - 1
            if rank:
                down = self.down[index, : self._inputs * rank].view(self._inputs, rank)
                up = self.up[index, : self._outputs * rank].view(rank, heads, -1)
                yield rows.order[start:stop], down, up


CORRECTIONS: Mapping[str, type[LoRACorrection]] = {
    "linear": LoRACorrection,
    "head": LoRACorrection,
    "embedding": EmbeddingCorrection,
    "experts": ExpertsCorrection,
    "latent": LatentLoRACorrection,
}


def part_sizes(projection: Projection) -> tuple[int, ...]:
    """The sizes of the parts, one or more."""
    return tuple(projection.parts.values()) or (projection.outputs,)


def ends_of(sizes: tuple[int, ...]) -> list[int]:
    """Where each part begins, and the last one ends."""
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends
