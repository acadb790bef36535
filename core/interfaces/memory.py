"""The plan of what a device's memory is for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from maxserve.core.interfaces.component import Context

if TYPE_CHECKING:
    import torch

    from maxserve.core.interfaces.architecture import ModelSpec
    from maxserve.core.interfaces.cache import Bounds, BuiltCacheFormat, CacheGroup, CacheLayer

__all__ = ["MemoryContext", "PlannedMemory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryContext(Context):
    """What memory is to be divided for, before anything is allocated.

    `settings` are all options (`maxserve.options.Settings`), `spec` is the model's. `weights`, `adapters` and
    `unrounded` are bytes: of all weights, of the slots of adapters, and of weights that are not rounded where the
    others are; projections are held in `encoding`. `layers` are those that the cache has, a drafter's among them; the
    model computes in `compute`. `whole_prompts`: each prompt takes one step. `draws`: drafts may be drawn.
    """

    settings: Any
    spec: ModelSpec
    device: torch.device
    compute: torch.dtype
    format: BuiltCacheFormat
    layers: tuple[CacheLayer, ...]
    groups: Sequence[CacheGroup] = ()
    weights: int
    adapters: int = 0
    unrounded: int = 0
    encoding: str = ""
    whole_prompts: bool = False
    draws: bool = True


class PlannedMemory(Protocol):
    """A division of memory; ModelError where the model does not fit. `warnings` are lines for the log.

    `page_bounds` are the most pages that a request holds, by group of layers (None: as many as it has tokens for), the
    other pages as in a CacheContext.
    """

    max_batch_size: int
    max_length: int
    pages: int
    page_size: int
    page_bounds: Bounds
    soft_pages: int | None
    host_pages: int
    warnings: tuple[str, ...]

    def table(self) -> str:
        """What the operator is shown of it."""
        ...
