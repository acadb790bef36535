"""maxserve: a model server in which everything is a plugin. These names are what plugins and library users import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxserve.core.components import (
    Architecture,
    AttentionBackend,
    CacheStrategy,
    ConfigSection,
    Engine,
    GrammarBackend,
    LayerCompiler,
    LinearMethod,
    ModelLocation,
    ModelQuery,
    ModelSource,
    Observer,
    ReasoningParser,
    Routes,
    Sampler,
    Scheduler,
    ToolParser,
    WeightMap,
)
from maxserve.core.hookspecs import hookimpl
from maxserve.core.nouns import SamplingParams

if TYPE_CHECKING:
    from maxserve.llm import LLM

__all__ = [
    "LLM",
    "Architecture",
    "AttentionBackend",
    "CacheStrategy",
    "ConfigSection",
    "Engine",
    "GrammarBackend",
    "LayerCompiler",
    "LinearMethod",
    "ModelLocation",
    "ModelQuery",
    "ModelSource",
    "Observer",
    "ReasoningParser",
    "Routes",
    "Sampler",
    "SamplingParams",
    "Scheduler",
    "ToolParser",
    "WeightMap",
    "hookimpl",
]


def __getattr__(name: str) -> Any:
    if name == "LLM":  # imports torch, so only when asked for
        from maxserve.core.runtime.openmp import wait_asleep

        wait_asleep()
        from maxserve.llm import LLM

        return LLM
    raise AttributeError(f"module 'maxserve' has no attribute {name!r}")
