"""Attention back ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context, Ref

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheLayer, KVLayer
    from maxserve.core.interfaces.inputs import StepInputs


__all__ = ["Attention", "AttentionBackend", "AttentionContext", "CacheQuery", "Index"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionBackend(Component):
    """A way to attend over the cache on some torch device types. `build(AttentionContext)` gives an Attention.

    The one of highest priority that can be built serves: a build may raise Unavailable, and the next one is asked.
    `compiled` ones are left out with `--no-use-subgraphs`.

    `cache_dtype(CacheQuery)` gives the type that keys and values are best stored in for it where the operator names
    none, or raises Unavailable as a build would; without it, they are stored in the type the model computes in.

    One that `reads_formats` writes and reads keys and values as `format` and `factors` of its context say, or raises
    Unavailable. Others serve where keys and values are numbers of a floating type.
    """

    kind: ClassVar[str] = "attention_backend"

    devices: tuple[str, ...] = ("cpu", "cuda")
    priority: int = 0
    compiled: bool = False
    cache_dtype: Ref | None = None
    reads_formats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheQuery(Context):
    """`rows` is the type of the rows that projections multiply, `compute` that of what they give."""

    layers: tuple[CacheLayer, ...]
    rows: torch.dtype
    compute: torch.dtype
    device: torch.device


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
    """`storage[i]` is where the keys and values of layer i are, laid out as KVLayer says.

    `format` is how they are stored; without one, as numbers in the type of the storage. Where there are `factors`, one
    for each layer, keys and values are divided by them before they are stored, and are what is stored times these.
    """

    layers: tuple[CacheLayer, ...]
    storage: Sequence[KVLayer]
    page_size: int
    device: torch.device
    format: BuiltCacheFormat | None = None
    factors: Sequence[CacheFactors] = ()


class Attention(Protocol):
    """Attends over the pages of a step."""

    def begin(self, inputs: StepInputs) -> None:
        """Called once a step, before the model runs: plan here what all layers share."""

    def attend(
        self,
        layer: int,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        inputs: StepInputs,
        sinks: torch.Tensor | None = None,
        index: Index | None = None,
    ) -> torch.Tensor:
        """Writes k, v to `slot_mapping`; returns causal attention as the CacheLayer says, [T, heads, value_size].

        A build that cannot do what a layer of its context says raises Unavailable; `sinks` are always to be honoured.
        `index` comes to layers with an `index_top`.
        """
        ...
