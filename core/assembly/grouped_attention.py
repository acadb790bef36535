"""Attention for groups of layers that have block tables of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.attention import Attention, Index
    from maxserve.core.interfaces.cache import CacheGroup
    from maxserve.core.interfaces.inputs import StepInputs


@runtime_checkable
class HasParts(Protocol):
    """An Attention of which others do the work, for who must know them."""

    def of(self, layer: int) -> tuple[Attention, int]:
        """What attends for a layer, and which of its own that is."""
        ...


class GroupedAttention:
    """An Attention for groups of layers: one part for each, which knows its own layers only, counted from 0."""

    def __init__(self, parts: Sequence[Attention], groups: Sequence[CacheGroup]) -> None:
        self._parts = parts
        self._locations = {
            layer: (number, position)
            for number, group in enumerate(groups)
            for position, layer in enumerate(group.layers)
        }
        self._seen: tuple[StepInputs, ...] = ()

    def begin(self, inputs: StepInputs) -> None:
        """Each part begins the step with the block tables of its group."""
        self._seen = inputs.groups
        for part, seen in zip(self._parts, inputs.groups, strict=True):
            part.begin(seen)

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
        """What the layer's part gives for the step that began."""
        number, position = self._locations[layer]
        return self._parts[number].attend(position, q, k, v, self._seen[number], sinks, index)

    def of(self, layer: int) -> tuple[Attention, int]:
        """The part that has a layer, and which of its own it is: for who compiles layers."""
        number, position = self._locations[layer]
        return self._parts[number], position
