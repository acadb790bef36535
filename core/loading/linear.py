"""Projections and tables of all models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.core.interfaces.linear import CodesLinear, PackedLinear, SupportsEmbedding
from maxserve.core.loading.shard import Shard, current_shard

if TYPE_CHECKING:
    from maxserve.core.interfaces.adapter import ProjectionKind

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


P = TypeVar("P")


class Adaptable:
    """A module that adapters can correct: what they are told of it, and their correction.

    Unless it is `adaptable` they cannot: its rows are not those that they are told of, or near ties are decided by it.
    """

    adaptable: bool = True
    adapter_kind: ClassVar[ProjectionKind] = "linear"
    inputs: int
    outputs: int
    parts: Mapping[str, Part]
    correction: Any = None  # a BoundCorrection, or what else a subclass says


class BoundCorrection(Protocol):
    """A projection's `correction` with the rows of the step that it is called in; `step` knows them."""

    correction: Any
    step: Any

    def __call__(self, x: Tensor, out: Tensor) -> Tensor: ...


class Projection(Adaptable, nn.Module, Generic[P]):
    """A module with a weight [..., outputs, inputs], as checkpoints store it.

    How a weight is stored and multiplied is decided here: once a linear method stores it, `packed`, a P, has
    the weight and `weight` is gone. `role` and `parts`, the names and sizes of fused projections, say how ranks may
    share it, and `shard` which of them this is; sizes are those of the whole. `stack` are the axes before the outputs.
    Unless it is `roundable`, the operator cannot have the weight rounded: what chooses experts is small, and near ties
    are decided by it.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    roundable: bool = True
    correction: BoundCorrection | None = None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        role: Role = "replicated",
        parts: Mapping[str, Part] | None = None,
        stack: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.role, self.parts = role, parts or {"": Part(outputs)}
        self.shard: Shard | None = None if role == "replicated" else current_shard()
        self.sums: Shard | None = self.shard if role == "row" else None  # what each rank gives is a part of a sum
        assert sum(part.size for part in self.parts.values()) == outputs, "parts make up the outputs"
        self.weight = weight(*stack, outputs, inputs)
        self.bias = weight(*stack, outputs) if bias else None
        self.packed: P | None = None

    def set_packed(self, packed: P) -> None:
        """From now on `packed` has the weight."""
        self.packed = packed
        self.weight = None

    @property
    def own_bias(self) -> nn.Parameter | None:
        """The bias that is added here: where ranks are summed, one of them adds it."""
        return self.bias if self.sums is None or self.sums.rank == 0 else None

    def extra_repr(self) -> str:
        return f"{self.inputs} -> {self.outputs}, bias={self.bias is not None}"


class Linear(Projection[PackedLinear | CodesLinear]):
    """Multiplies by a weight [outputs, inputs]. Every projection of every model is one of these.

    A rank has some of the outputs of a column, and all of a row's, of which it gets some of the inputs.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: bool = False,
        role: Role = "replicated",
        parts: Mapping[str, Part] | None = None,
        roundable: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, bias=bias, role=role, parts=parts)
        self.roundable = roundable

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        bias = self.bias if self.sums is None else self.own_bias
        if self.packed is not None:
            out = self.packed.multiply(x, bias)
        else:
            assert self.weight is not None, "neither the layer nor a method has the weight"
            out = F.linear(x, self.weight, bias)
        if self.correction is not None:
            out = self.correction(x, out)
        return out if self.sums is None else self.sums.sum(out)


class ExactLinear(Linear):
    """Multiplies in float32 whatever the model computes in, for outcomes that near ties are decided by."""

    adaptable = False

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias, roundable=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.weight is None:
            return super().forward(x)
        return F.linear(x.float(), self.weight.float())


class Embedding(Projection[SupportsEmbedding]):
    """Rows of a table [entries, dim], given in the type the model is built to compute in, whatever the table's own.

    `role` "column": ranks may share the entries; each gives zeros for those of others, and they are summed.

    Where a projection has the same weight and its linear method can give rows of it, `packed` has the table and
    `weight` is gone.
    """

    adapter_kind = "embedding"

    def __init__(self, entries: int, dim: int, *, role: Role = "replicated") -> None:
        super().__init__(dim, entries, role=role)
        self.compute = torch.get_default_dtype()

    def forward(self, ids: Tensor) -> Tensor:
        """[...] to [..., dim]."""
        out = self._rows(ids) if self.shard is None else self._shared_rows(ids, self.shard)
        return out if self.correction is None else self.correction(ids, out)

    def _shared_rows(self, ids: Tensor, shard: Shard) -> Tensor:
        first, stop = shard.of(self.outputs)
        others = (ids < first) | (ids >= stop)
        return shard.sum(self._rows((ids - first).masked_fill(others, 0)).masked_fill(others[..., None], 0))

    def _rows(self, ids: Tensor) -> Tensor:
        if self.packed is not None:
            rows = self.packed.embedding(ids.flatten())
            return rows.view(*ids.shape, rows.shape[-1]).to(self.compute)
        assert self.weight is not None, "neither the layer nor a method has the table"
        return F.embedding(ids, self.weight).to(self.compute)
