"""What plugin authors test with: fixtures, and classes of checks to inherit from. Needs the extra `testing`.

A conftest has the fixtures by `pytest_plugins = ["maxserve.testing"]`. Everything is imported when it is asked for:
most tests never need torch, and `maxserve.testing.live` needs no pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.registry.options import PluginOptions
    from maxserve.testing.adapter import AdapterChecks
    from maxserve.testing.adapter_source import AdapterSourceChecks
    from maxserve.testing.architecture import ArchitectureCases, ArchitectureChecks, QuirkChecks
    from maxserve.testing.attention import AttentionChecks
    from maxserve.testing.balancer import BalancerChecks, ScriptedReplica
    from maxserve.testing.cache import CacheStrategyChecks
    from maxserve.testing.cache_format import CacheFormatChecks
    from maxserve.testing.chat_template import ChatTemplateChecks
    from maxserve.testing.commands import CommandChecks
    from maxserve.testing.draft_head import DraftHeadChecks, DraftHeadQuirkChecks
    from maxserve.testing.encoder import EncoderChecks
    from maxserve.testing.engine import EngineChecks
    from maxserve.testing.eviction import EvictionPolicyChecks
    from maxserve.testing.executor import ExecutorChecks, ThreadLauncher
    from maxserve.testing.fixtures import light_import, max_cli, plugin_folder, plugin_host, spawned
    from maxserve.testing.generic import generic_checks
    from maxserve.testing.grammar import GrammarBackendChecks
    from maxserve.testing.http_server import HttpServerChecks
    from maxserve.testing.layers import LayerCompilerChecks
    from maxserve.testing.linear import LinearMethodChecks
    from maxserve.testing.middleware import MiddlewareChecks
    from maxserve.testing.model_source import ModelSourceChecks
    from maxserve.testing.observer import ObserverChecks
    from maxserve.testing.parsers import ReasoningParserChecks, ToolParserChecks
    from maxserve.testing.quantization import QuantizationFormatChecks
    from maxserve.testing.routes import RoutesChecks
    from maxserve.testing.runner import ModelRunnerChecks
    from maxserve.testing.sampler import SamplerChecks
    from maxserve.testing.scheduler import SchedulerChecks
    from maxserve.testing.scripted import ScriptedEngine
    from maxserve.testing.speculator import SpeculatorChecks
    from maxserve.testing.tiny_configs import tiny_config
    from maxserve.testing.tokenizer import TokenizerChecks
    from maxserve.testing.transport import TransportChecks
    from maxserve.testing.vision import VisionCases, VisionChecks, VisionQuirkChecks
    from maxserve.testing.weight_format import WeightFormatChecks

__all__ = [
    "ArchitectureCases",
    "AdapterChecks",
    "AdapterSourceChecks",
    "ArchitectureChecks",
    "AttentionChecks",
    "CacheStrategyChecks",
    "ChatTemplateChecks",
    "CommandChecks",
    "DraftHeadChecks",
    "DraftHeadQuirkChecks",
    "EncoderChecks",
    "EngineChecks",
    "CacheFormatChecks",
    "EvictionPolicyChecks",
    "BalancerChecks",
    "TransportChecks",
    "ExecutorChecks",
    "GrammarBackendChecks",
    "HttpServerChecks",
    "LayerCompilerChecks",
    "LinearMethodChecks",
    "MiddlewareChecks",
    "ModelSourceChecks",
    "ModelRunnerChecks",
    "ObserverChecks",
    "PluginOptions",
    "QuirkChecks",
    "QuantizationFormatChecks",
    "ReasoningParserChecks",
    "RoutesChecks",
    "SamplerChecks",
    "SchedulerChecks",
    "ScriptedEngine",
    "ScriptedReplica",
    "SpeculatorChecks",
    "ThreadLauncher",
    "TokenizerChecks",
    "ToolParserChecks",
    "VisionCases",
    "VisionChecks",
    "VisionQuirkChecks",
    "WeightFormatChecks",
    "generic_checks",
    "light_import",
    "max_cli",
    "plugin_folder",
    "plugin_host",
    "spawned",
    "tiny_config",
]

FIXTURES = ("light_import", "max_cli", "plugin_folder", "plugin_host", "spawned")
LAZY = {
    "ArchitectureCases": "maxserve.testing.architecture",
    "AdapterChecks": "maxserve.testing.adapter",
    "AdapterSourceChecks": "maxserve.testing.adapter_source",
    "ArchitectureChecks": "maxserve.testing.architecture",
    "AttentionChecks": "maxserve.testing.attention",
    "CacheStrategyChecks": "maxserve.testing.cache",
    "ChatTemplateChecks": "maxserve.testing.chat_template",
    "CommandChecks": "maxserve.testing.commands",
    "DraftHeadChecks": "maxserve.testing.draft_head",
    "DraftHeadQuirkChecks": "maxserve.testing.draft_head",
    "EncoderChecks": "maxserve.testing.encoder",
    "EngineChecks": "maxserve.testing.engine",
    "BalancerChecks": "maxserve.testing.balancer",
    "TransportChecks": "maxserve.testing.transport",
    "ExecutorChecks": "maxserve.testing.executor",
    "CacheFormatChecks": "maxserve.testing.cache_format",
    "EvictionPolicyChecks": "maxserve.testing.eviction",
    "GrammarBackendChecks": "maxserve.testing.grammar",
    "HttpServerChecks": "maxserve.testing.http_server",
    "LayerCompilerChecks": "maxserve.testing.layers",
    "LinearMethodChecks": "maxserve.testing.linear",
    "MiddlewareChecks": "maxserve.testing.middleware",
    "ModelSourceChecks": "maxserve.testing.model_source",
    "ModelRunnerChecks": "maxserve.testing.runner",
    "ObserverChecks": "maxserve.testing.observer",
    "PluginOptions": "maxserve.core.registry.options",
    "QuirkChecks": "maxserve.testing.architecture",
    "QuantizationFormatChecks": "maxserve.testing.quantization",
    "ReasoningParserChecks": "maxserve.testing.parsers",
    "RoutesChecks": "maxserve.testing.routes",
    "SamplerChecks": "maxserve.testing.sampler",
    "SchedulerChecks": "maxserve.testing.scheduler",
    "ScriptedEngine": "maxserve.testing.scripted",
    "ScriptedReplica": "maxserve.testing.balancer",
    "SpeculatorChecks": "maxserve.testing.speculator",
    "ThreadLauncher": "maxserve.testing.executor",
    "TokenizerChecks": "maxserve.testing.tokenizer",
    "ToolParserChecks": "maxserve.testing.parsers",
    "VisionCases": "maxserve.testing.vision",
    "VisionChecks": "maxserve.testing.vision",
    "VisionQuirkChecks": "maxserve.testing.vision",
    "WeightFormatChecks": "maxserve.testing.weight_format",
    "generic_checks": "maxserve.testing.generic",
    "tiny_config": "maxserve.testing.tiny_configs",
    **dict.fromkeys(FIXTURES, "maxserve.testing.fixtures"),
}


__getattr__ = exports(__name__, LAZY)


def __dir__() -> list[str]:
    """The names that are there, and the fixtures: pytest looks for fixtures of a plugin among them."""
    return [*globals(), *FIXTURES]
