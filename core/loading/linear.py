"""Projections and tables of all models."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from maxserve.core.interfaces.linear import PackedLinear, SupportsEmbedding


def weight(*shape: int) -> nn.Parameter:
    """An uninitialised parameter of a model that is only ever run, never trained."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """Multiplies by a weight [outputs, inputs], as checkpoints store it.

    Every projection of every model is one of these, so that how a weight is stored and multiplied is decided in one
    place: once a linear method stores it, `packed` has the weight and `weight` is gone.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = weight(outputs, inputs)
        self.bias = weight(outputs) if bias else None
        self.packed: PackedLinear | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        if self.packed is not None:
            return self.packed.multiply(x, self.bias)
        assert self.weight is not None, "neither the layer nor a method has the weight"
        return F.linear(x, self.weight, self.bias)

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


class Embedding(nn.Module):
    """Rows of a table [entries, dim], given in the type the model is built to compute in, whatever the table's own.

    Where a projection has the same weight and its linear method can give rows of it, `packed` has the table and
    `weight` is gone.
    """

    weight: nn.Parameter | None

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
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
