"""The settings and kernels that an engine is built for, and the model that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import torch

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.adapter import AdapterSlots
    from maxserve.core.interfaces.architecture import Model, ModelSpec
    from maxserve.core.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheGroup, CacheLayer, CacheStrategy
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.memory import PlannedMemory
    from maxserve.core.interfaces.scheduler import Scheduler
    from maxserve.core.interfaces.speculator import DraftNeeds, Speculator
    from maxserve.core.loading.kernels import Chooser
    from maxserve.core.loading.model_loader import ModelLoader
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.ranks import RankGroup


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What all builds of one engine share. `group` are the ranks that share the model, if several do."""

    settings: Settings
    host: Host
    loader: ModelLoader
    strategy: Entry[CacheStrategy]
    scheduler: Entry[Scheduler]
    speculator: Entry[Speculator] | None
    group: RankGroup | None = None

    @property
    def sections(self) -> Mapping[type[Any], Any]:
        return self.loader.sections

    @property
    def device(self) -> torch.device:
        return self.loader.device

    @property
    def chooser(self) -> Chooser:
        return self.loader.chooser

    @property
    def compute(self) -> torch.dtype:
        return self.loader.compute


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model with its weights loaded, and the memory planned around it.

    `layers` are what the cache keeps: those of the model, and behind them those that a drafter `needs`. `groups` are
    those of them that have tables of their own, `ends` the tokens that end an answer, and `encoding` what projections
    are held in. Keys and values are stored in the `format`, divided by the `factors` of their layer where there are
    some.
    """

    files: ModelFiles
    spec: ModelSpec
    model: Model
    parameters: int
    plan: PlannedMemory
    needs: DraftNeeds
    layers: tuple[CacheLayer, ...]
    groups: tuple[CacheGroup, ...]
    format: BuiltCacheFormat
    factors: tuple[CacheFactors, ...]
    ends: tuple[int, ...]
    encoding: str
    adapters: AdapterSlots | None = None
