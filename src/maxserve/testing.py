"""What plugin authors test with: classes of checks to inherit from, and fixtures that pytest finds by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxserve.core import testing as _testing

if TYPE_CHECKING:
    from maxserve.core.discovery.options import PluginOptions
    from maxserve.core.testing import (
        ArchitectureChecks,
        AttentionChecks,
        CacheStrategyChecks,
        EncoderChecks,
        GrammarBackendChecks,
        LayerCompilerChecks,
        LinearMethodChecks,
        ReasoningParserChecks,
        SamplerChecks,
        SchedulerChecks,
        ToolParserChecks,
        VisionChecks,
        generic_checks,
        tiny_config,
    )

__all__ = [
    "ArchitectureChecks",
    "AttentionChecks",
    "CacheStrategyChecks",
    "EncoderChecks",
    "GrammarBackendChecks",
    "LayerCompilerChecks",
    "LinearMethodChecks",
    "PluginOptions",
    "ReasoningParserChecks",
    "SamplerChecks",
    "SchedulerChecks",
    "ToolParserChecks",
    "VisionChecks",
    "generic_checks",
    "tiny_config",
]


def __getattr__(name: str) -> Any:
    if name == "PluginOptions":
        from maxserve.core.discovery.options import PluginOptions

        return PluginOptions
    if name in __all__:  # imports torch, so only when asked for
        return getattr(_testing, name)
    raise AttributeError(f"module 'maxserve.testing' has no attribute {name!r}")
