"""What LoRA adapters change in the outcomes of projections, a class for each way that projections are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import pad

from maxserve.interfaces.adapter import Projection
from maxserve.plugins.cpu.memory import weight_memory

if TYPE_CHECKING:
    from maxserve.interfaces.inputs import AdapterRows, ExpertRows
    from maxserve.loading import Layout

PANEL = 16  # columns of a panel
INPUTS = 32  # inputs of `down` in panels are filled up to a multiple of it


class Packed(msgspec.Struct, frozen=True):
    """What fills a slot of one projection: down [experts, inputs, parts, rank] and up [experts, rank, outputs]."""

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[-2]

    def share(self, share: Layout) -> Packed:
        """What one of the ranks has that share the projection."""
        down = self.down if share.inputs is None else self.down[:, slice(*share.inputs)]
        return Packed(down, torch.cat([self.up[..., span.start : span.stop] for span in share.spans], dim=-1))


class SlotMemory:
    """The numbers of all slots. Those of one slot lie side by side, in the order in which they are read.

    On a CPU they are on large pages, of which a slot that is never filled takes none.
    """

    def __init__(self, slots: int, numbers: int, dtype: torch.dtype, device: torch.device) -> None:
        on_cpu = device.type == "cpu"
        self._numbers = (
            weight_memory.zeros(slots, numbers, dtype=dtype)
            if on_cpu
            else torch.zeros(slots, numbers, dtype=dtype, device=device)
        )
        self._used = 0

    def take(self, count: int) -> Tensor:
        """[slots, count], each slot's numbers side by side."""
        start, self._used = self._used, self._used + count
        return self._numbers[:, start : start + count]


class LoRACorrection:
    """A LowRank. Adds x · down · up of the slot to each row that has one, in the type that rows are rounded to."""

    def __init__(self, projection: Projection, rank: int, memory: SlotMemory) -> None:
        self.parts = part_sizes(projection)
        self._ends = ends_of(self.parts)
        self._inputs, self._outputs = projection.inputs, projection.outputs
        self.down, self.up = (memory.take(count) for count in factor_sizes(projection, rank))
        self.ranks = torch.zeros(len(self.down), dtype=torch.int64)
        self._panels = False

    def lay_in_panels(self) -> None:
        self._panels = True

    def place(self, packed: Packed | None, slot: int) -> None:
        """Has the slot hold this; None: its adapter changes nothing here."""
        index = slot - 1
        self.ranks[index] = 0 if packed is None else packed.rank
        if packed is not None:
            down, up = self._panels_of(packed) if self._panels else (packed.down, packed.up)
            self.down[index, : down.numel()] = down.flatten()
            self.up[index, : up.numel()] = up.flatten()

    def _panels_of(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """What `LowRank` says of panels, of factors that no experts have."""
        parts = torch.split(packed.up[0], [*self.parts], dim=1)
        return in_panels(packed.down[0].flatten(1), INPUTS), torch.cat([in_panels(part, 1) for part in parts])

    def __call__(self, x: Tensor, out: Tensor, rows: AdapterRows) -> Tensor:
        for slot, start, stop in rows.groups.tolist():
            rank = int(self.ranks[slot - 1])
            if rank:
                own = rows.order[start:stop]
                out.index_add_(0, own, self._change(x.index_select(0, own), slot - 1, rank).to(out.dtype))
        return out

    def _change(self, x: Tensor, index: int, rank: int, expert: int = 0) -> Tensor:
        down, up = self._read_panels(index, rank) if self._panels else self._factors(index, rank, expert)
        made = self._reduced(x, down)
        if len(self.parts) == 1:
            return torch.mm(made, up)
        parts = made.view(-1, len(self.parts), rank)
        return torch.cat([parts[:, i] @ up[:, a:b] for i, (a, b) in enumerate(pairwise(self._ends))], dim=-1)

    def _factors(self, index: int, rank: int, expert: int) -> tuple[Tensor, Tensor]:
        """Down [inputs, parts * rank] and up [rank, outputs]."""
        width, outputs = len(self.parts) * rank, self._outputs
        own = slice(expert * self._inputs * width, (expert + 1) * self._inputs * width)
        down = self.down[index, own].view(self._inputs, width)
        return down, self.up[index, expert * outputs * rank : (expert + 1) * outputs * rank].view(rank, outputs)

    def _read_panels(self, index: int, rank: int) -> tuple[Tensor, Tensor]:
        """The same, copied together: only layers that run as they are written although they were compiled need it."""
        down = out_of_panels(self.down[index], filled(self._inputs, INPUTS), len(self.parts) * rank)[: self._inputs]
        ends = ends_of(tuple(filled(size, PANEL) * rank for size in self.parts))
        starts = zip(ends, self.parts, strict=False)
        return down, torch.cat([out_of_panels(self.up[index, at:], rank, size) for at, size in starts], dim=1)

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


def factor_sizes(projection: Projection, rank: int) -> tuple[int, int]:
    """How many numbers a slot has room for, down and up: of a rank that is a multiple of 16, also in panels."""
    sizes, each = part_sizes(projection), rank * projection.experts
    return each * filled(projection.inputs, INPUTS) * len(sizes), each * sum(filled(size, PANEL) for size in sizes)


def in_panels(matrix: Tensor, least: int) -> Tensor:
    """The numbers of [depth, columns] in panels; the depth is filled up to a multiple of `least`."""
    depth, columns = filled(matrix.shape[0], least), filled(matrix.shape[1], PANEL)
    whole = pad(matrix, (0, columns - matrix.shape[1], 0, depth - matrix.shape[0]))
    return whole.view(-1, _together(whole), columns // PANEL, PANEL).permute(2, 0, 3, 1).flatten()


def out_of_panels(numbers: Tensor, depth: int, columns: int) -> Tensor:
    """[depth, columns], whose panels `numbers` begins with."""
    width, together = filled(columns, PANEL), _together(numbers)
    panels = numbers[: depth * width].view(width // PANEL, depth // together, PANEL, together)
    return panels.permute(1, 3, 0, 2).reshape(depth, width)[:, :columns]


def _together(numbers: Tensor) -> int:
    """Numbers of a column that lie beside each other in a panel."""
    return 2 if numbers.dtype == torch.bfloat16 else 1


def filled(count: int, least: int) -> int:
    """The next multiple."""
    return -(-count // least) * least
