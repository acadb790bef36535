"""Adapters: corrections of projections that each request chooses for itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    import torch


__all__ = ["Adapter", "AdapterContext", "AdapterTable", "Correction", "Projection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter(Component):
    """A way to adapt a model to requests. `build(AdapterContext)` gives an AdapterTable."""

    kind: ClassVar[str] = "adapter"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterContext(Context):
    """`compute` is the type of what projections take and give."""

    compute: torch.dtype
    device: torch.device


@dataclass(frozen=True, slots=True, kw_only=True)
class Projection:
    """A projection of the model by its name; `parts` are the sizes of what is fused in its outputs, by name."""

    name: str
    inputs: int
    outputs: int
    parts: Mapping[str, int] = field(default_factory=dict)


class Correction(Protocol):
    """What adapters change in the outcome of one projection."""

    def __call__(self, x: torch.Tensor, out: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
        """The outcome to go on with, of inputs [T, inputs], outcome [T, outputs] and the slot of each row, [T] int64.

        Rows of slot 0 have no adapter and stay as they are. Called only in steps in which some row has one.
        """
        ...


class AdapterTable(Protocol):
    """The adapters that requests may name: the first has slot 1."""

    def names(self) -> tuple[str, ...]:
        """The adapters' names in the order of their slots; none if there is nothing to serve."""
        ...

    def correction(self, projection: Projection) -> Correction | None:
        """What corrects a projection; None where no adapter changes it."""
        ...
