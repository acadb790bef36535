"""The settings and kernels that an engine is built for, and the model that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.tokenizer import TokenizerContext

if TYPE_CHECKING:
    import torch

    from maxserve.core.config import Settings
    from maxserve.core.engine.adapters import BuiltAdapters
    from maxserve.core.interfaces.architecture import Model, ModelSpec
    from maxserve.core.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheGroup, CacheLayer, CacheStrategy
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.progress import Progress
    from maxserve.core.interfaces.scheduler import Scheduler
    from maxserve.core.interfaces.speculator import DraftNeeds, Speculator
    from maxserve.core.interfaces.tokenizer import TokenizerFiles
    from maxserve.core.loading.kernels import Chooser, Computation
    from maxserve.core.loading.memory import MemoryPlan
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What all builds of one engine share."""

    settings: Settings
    host: Host
    sections: Mapping[type[Any], Any]
    device: torch.device
    chooser: Chooser
    computation: Computation
    strategy: Entry[CacheStrategy]
    scheduler: Entry[Scheduler]
    speculator: Entry[Speculator] | None
    progress: Progress

    def tokenizer_files(self, path: str) -> TokenizerFiles:
        """The tokenizer in the folder of a model."""
        trusted = self.settings.model.trust_remote_code
        return self.host.tokenizer(TokenizerContext(sections=self.sections, path=path, trust_remote_code=trusted))

    @property
    def compute(self) -> torch.dtype:
        return self.computation.compute


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model with its weights loaded, and the memory planned around it.

    `layers` are what the cache keeps: those of the model, and behind them those that a drafter `needs`. `groups` are
    those of them that have tables of their own, `ends` the tokens that end an answer. Keys and values are stored in the
    `format`, divided by the `factors` of their layer where there are some. `draft_files` are those of draft models, by
    what was asked for.
    """

    files: ModelFiles
    spec: ModelSpec
    model: Model
    parameters: int
    plan: MemoryPlan
    needs: DraftNeeds
    layers: tuple[CacheLayer, ...]
    groups: tuple[CacheGroup, ...]
    format: BuiltCacheFormat
    factors: tuple[CacheFactors, ...]
    ends: tuple[int, ...]
    draft_files: dict[str, ModelFiles]
    adapters: BuiltAdapters | None = None
