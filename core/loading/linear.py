"""Projections and tables of all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from maxserve.core.interfaces.linear import PackedLinear, SupportsEmbedding


Role: TypeAlias = Literal["column", "row", "replicated"]
"""How a projection is shared out among ranks: by its outputs, by its inputs, or not at all."""


@dataclass(frozen=True, slots=True)
class Part:
    """One of the projections that lie one after another in a weight: `size` outputs in `units` that stay whole.

    Heads are units. Where there are fewer units than ranks, several ranks have the same one. Without units, any share
    of the outputs will do.
    """

    size: int
    units: int | None = None


def weight(*shape: int) -> nn.Parameter:
    """An uninitialised parameter of a model that is only ever run, never trained."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """Multiplies by a weight [outputs, inputs], as checkpoints store it.

    Every projection of every model is one of these, so that how a weight is stored and multiplied is decided in one
    place: once a linear method stores it, `packed` has the weight and `weight` is gone. `role` and `parts`, the names
    and sizes of fused projections, say how ranks may share it.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        role: Role = "replicated",
        parts: Mapping[str, Part] | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.role, self.parts = role, checked_parts(parts, outputs)
        self.weight = weight(outputs, inputs)
        self.bias = weight(outputs) if bias else None
        self.packed: PackedLinear | None = None
        self.correction: Callable[[Tensor, Tensor], Tensor] | None = None  # of adapters, by inputs and outcome

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        if self.packed is not None:
            out = self.packed.multiply(x, self.bias)
        else:
            assert self.weight is not None, "neither the layer nor a method has the weight"
            out = F.linear(x, self.weight, self.bias)
        return out if self.correction is None else self.correction(x, out)

    def set_packed(self, packed: PackedLinear) -> None:
        """From now on `packed` has the weight."""
        self.packed = packed
        self.weight = None

    def extra_repr(self) -> str:
        return f"{self.inputs} -> {self.outputs}, bias={self.bias is not None}"


class ExactLinear(Linear):
    """Multiplies in float32 whatever the model computes in, for outcomes that near ties are decided by."""

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return super().forward(x)
        return F.linear(x.float(), self.weight.float())


def checked_parts(parts: Mapping[str, Part] | None, outputs: int) -> Mapping[str, Part]:
    """The parts of a weight with so many outputs; a single one unless there are names."""
    parts = parts or {"": Part(outputs)}
    assert sum(part.size for part in parts.values()) == outputs, "parts make up the outputs"
    return parts


class Embedding(nn.Module):
    """Rows of a table [entries, dim], given in the type the model is built to compute in, whatever the table's own.

    `role` "column": ranks may share the entries.

    Where a projection has the same weight and its linear method can give rows of it, `packed` has the table and
    `weight` is gone.
    """

    weight: nn.Parameter | None

    def __init__(self, entries: int, dim: int, *, role: Role = "replicated") -> None:
        super().__init__()
        self.role, self.parts = role, checked_parts(None, entries)
        self.weight = table = weight(entries, dim)
        self.compute = table.dtype
        self.packed: SupportsEmbedding | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., dim]."""
        if self.packed is not None:
            rows = self.packed.embedding(ids.flatten())
            return rows.view(*ids.shape, rows.shape[-1]).to(self.compute)
        assert self.weight is not None, "neither the layer nor a method has the table"
        return F.embedding(ids, self.weight).to(self.compute)

    def set_packed(self, packed: SupportsEmbedding) -> None:
        """From now on `packed` has the table."""
        self.packed = packed
        self.weight = None
