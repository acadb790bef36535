"""What do plugin authors test with? Fixtures (this module is a pytest plugin) and classes of checks to inherit from.

Check classes are imported when they are asked for: every pytest run loads this module, and most never need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maxserve.core.testing.fixtures import light_import, max_cli, plugin_folder, plugin_host, spawned

if TYPE_CHECKING:
    from maxserve.core.testing.architecture import ArchitectureChecks
    from maxserve.core.testing.attention import AttentionChecks
    from maxserve.core.testing.cache import CacheStrategyChecks
    from maxserve.core.testing.encoder import EncoderChecks
    from maxserve.core.testing.generic import generic_checks
    from maxserve.core.testing.grammar import GrammarBackendChecks
    from maxserve.core.testing.layers import LayerCompilerChecks
    from maxserve.core.testing.linear import LinearMethodChecks
    from maxserve.core.testing.parsers import ReasoningParserChecks, ToolParserChecks
    from maxserve.core.testing.sampler import SamplerChecks
    from maxserve.core.testing.scheduler import SchedulerChecks
    from maxserve.core.testing.tiny_configs import tiny_config
    from maxserve.core.testing.vision import VisionChecks

__all__ = [
    "ArchitectureChecks",
    "AttentionChecks",
    "CacheStrategyChecks",
    "EncoderChecks",
    "GrammarBackendChecks",
    "LayerCompilerChecks",
    "LinearMethodChecks",
    "ReasoningParserChecks",
    "SamplerChecks",
    "SchedulerChecks",
    "ToolParserChecks",
    "VisionChecks",
    "generic_checks",
    "light_import",
    "max_cli",
    "plugin_folder",
    "plugin_host",
    "spawned",
    "tiny_config",
]

CHECKS = {
    "ArchitectureChecks": "maxserve.core.testing.architecture",
    "AttentionChecks": "maxserve.core.testing.attention",
    "CacheStrategyChecks": "maxserve.core.testing.cache",
    "EncoderChecks": "maxserve.core.testing.encoder",
    "GrammarBackendChecks": "maxserve.core.testing.grammar",
    "LayerCompilerChecks": "maxserve.core.testing.layers",
    "LinearMethodChecks": "maxserve.core.testing.linear",
    "ReasoningParserChecks": "maxserve.core.testing.parsers",
    "SamplerChecks": "maxserve.core.testing.sampler",
    "SchedulerChecks": "maxserve.core.testing.scheduler",
    "ToolParserChecks": "maxserve.core.testing.parsers",
    "VisionChecks": "maxserve.core.testing.vision",
    "generic_checks": "maxserve.core.testing.generic",
    "tiny_config": "maxserve.core.testing.tiny_configs",
}


def __getattr__(name: str) -> Any:
    if name in CHECKS:
        return getattr(import_module(CHECKS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
