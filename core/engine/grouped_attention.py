"""Attention for groups of layers that have block tables of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.attention import Attention, Index
    from maxserve.core.interfaces.batch import Batch
    from maxserve.core.interfaces.cache import CacheGroup


class GroupedAttention:
    """An Attention for groups of layers: one part for each, which knows its own layers only, counted from 0."""

    def __init__(self, parts: Sequence[Attention], groups: Sequence[CacheGroup]) -> None:
        self._parts = parts
        self._places = {
            layer: (number, place) for number, group in enumerate(groups) for place, layer in enumerate(group.layers)
        }
        self._seen: tuple[Batch, ...] = ()

    def begin(self, batch: Batch) -> None:
        """Each part hears of the batch with the tables of its group."""
        self._seen = batch.groups
        for part, seen in zip(self._parts, batch.groups, strict=True):
            part.begin(seen)

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
        """What the layer's part gives for the batch that begins, whatever was made of `batch` since."""
        number, place = self._places[layer]
        return self._parts[number].attend(place, q, k, v, self._seen[number], sinks, index)

    def of(self, layer: int) -> tuple[Attention, int]:
        """The part that has a layer, and which of its own it is: for who compiles layers."""
        number, place = self._places[layer]
        return self._parts[number], place
