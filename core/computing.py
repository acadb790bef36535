"""What computes a model's layers: attention over the cache, projections, layers compiled as a whole.

Which component serves for each is decided when the engine is put together (core/loading/kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from maxserve.core.interfaces import Context
from maxserve.core.nouns import Batch, CacheLayer, KVLayer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Index:
    """What the tokens of a step look for among those before, where a layer has an `index_top`.

    `queries` [T, index_heads, index_dim], `weights` [T, index_heads]. A token is scored by the sum over heads of
    weight * relu(query . its index key).
    """

    queries: torch.Tensor
    weights: torch.Tensor

    def of(self, rows: slice) -> Index:
        """That of some rows of the step."""
        return Index(self.queries[rows], self.weights[rows])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionContext(Context):
    """`storage[i]` is where layer i keeps keys and values, laid out as KVLayer says."""

    layers: tuple[CacheLayer, ...]
    storage: Sequence[KVLayer]
    page_size: int
    device: torch.device


class Attention(Protocol):
    """Attends over the pages of a batch."""

    def begin(self, batch: Batch) -> None:
        """Called once a step, before the model runs: plan here what all layers share."""
        ...

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        batch: Batch,
        sinks: torch.Tensor | None = None,
        index: Index | None = None,
    ) -> torch.Tensor:
        """Writes k, v to `batch.slots`; returns causal attention as the CacheLayer says, [T, heads, value_size].

        A build that cannot do what a layer of its context says raises Unavailable; `sinks` are always to be honoured.
        `index` comes to layers with an `index_top`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearContext(Context):
    """`compute` is the type of what is multiplied and of what comes out."""

    compute: torch.dtype
    device: torch.device


class KeptWeight(Protocol):
    """The weight [outputs, inputs] of one projection, as its method keeps it."""

    def put(self, rows: torch.Tensor, first: int) -> None:
        """Takes rows `first` … of the weight, in the type the keeper said; they may be gone after the call."""
        ...

    def multiply(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[..., inputs] to [..., outputs]."""
        ...


@runtime_checkable
class GivesRows(Protocol):
    """A KeptWeight that can also be read, so that a table which shares the weight is not kept a second time."""

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows [N, inputs] of the weight by their numbers [N] int64, as they were put."""
        ...


class WeightKeeper(Protocol):
    """Keeps the weights of a model's projections."""

    def stored(self, checkpoint: torch.dtype) -> torch.dtype:
        """The type in which weights of a checkpoint in that type are kept, and so given to `KeptWeight.put`."""
        ...

    def keep(self, outputs: int, inputs: int, dtype: torch.dtype) -> KeptWeight | None:
        """Room for one weight; None leaves it to the layer itself, which keeps it as the checkpoint has it."""
        ...


class KeptExperts(Protocol):
    """The weights [experts, outputs, inputs] of one projection of a mixture of experts, as their method keeps them."""

    def put(self, expert: int, rows: torch.Tensor, first: int) -> None:
        """Takes rows `first` … of one expert's weight, in the type the keeper said; they may be gone after the call."""
        ...

    def multiply(self, x: torch.Tensor, ends: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """[rows, inputs] to [rows, outputs], rows in the order of their experts: those of expert e end at `ends[e]`.

        `ends` [experts] int64 on the device of `x`; an expert without rows ends where the one before does. `bias` is
        [experts, outputs].
        """
        ...


@runtime_checkable
class KeepsExperts(Protocol):
    """A WeightKeeper that also keeps the weights of mixtures of experts."""

    def keep_experts(self, experts: int, outputs: int, inputs: int, dtype: torch.dtype) -> KeptExperts | None:
        """Room for the weights of one projection; None leaves them to the layer itself."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerContext(Context):
    compute: torch.dtype
    device: torch.device


class CompilesLayers(Protocol):
    """Makes one call of the many operations of a layer."""

    def compile(self, layer: torch.nn.Module, attention: Attention) -> Callable[..., torch.Tensor] | None:
        """What takes the place of `layer(x, batch)`, where `attention` is that of every batch; None if nothing can.

        The weights are in place. `layer` may be of a class nobody knows here: what it computes is found by tracing.
        """
        ...
