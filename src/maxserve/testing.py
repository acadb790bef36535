"""What plugin authors test with: classes of checks to inherit from, and fixtures that pytest finds by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxserve.core import testing as _testing

if TYPE_CHECKING:
    from maxserve.core.testing import (
        ArchitectureChecks,
        CacheStrategyChecks,
        ReasoningParserChecks,
        SamplerChecks,
        SchedulerChecks,
        ToolParserChecks,
        VisionChecks,
    )

__all__ = [
    "ArchitectureChecks",
    "CacheStrategyChecks",
    "ReasoningParserChecks",
    "SamplerChecks",
    "SchedulerChecks",
    "ToolParserChecks",
    "VisionChecks",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imports torch, so only when asked for
        return getattr(_testing, name)
    raise AttributeError(f"module 'maxserve.testing' has no attribute {name!r}")
