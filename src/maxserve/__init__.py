"""maxserve: a model server in which everything is a plugin. These names are what plugins and library users import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from maxserve._lazy import exports as _exports
from maxserve.core.registry.builtins import ship as _ship
from maxserve.plugins import BUILTINS as _BUILTINS

if TYPE_CHECKING:
    from maxserve.core.hookspecs import hookimpl
    from maxserve.core.interfaces.adapter import Adapter
    from maxserve.core.interfaces.adapter_source import AdapterSource
    from maxserve.core.interfaces.architecture import Architecture, WeightMap
    from maxserve.core.interfaces.attention import AttentionBackend
    from maxserve.core.interfaces.balancer import Balancer
    from maxserve.core.interfaces.cache import CacheFormat, CacheStrategy, EvictionPolicy
    from maxserve.core.interfaces.config import ConfigSection
    from maxserve.core.interfaces.engine import Engine
    from maxserve.core.interfaces.executor import Executor
    from maxserve.core.interfaces.grammar import GrammarBackend
    from maxserve.core.interfaces.http_server import HttpServer
    from maxserve.core.interfaces.layer_compiler import LayerCompiler
    from maxserve.core.interfaces.linear import LinearMethod
    from maxserve.core.interfaces.middleware import Middleware
    from maxserve.core.interfaces.model_source import ModelLocation, ModelQuery, ModelSource
    from maxserve.core.interfaces.observer import Observer
    from maxserve.core.interfaces.parsers import ReasoningParser, ToolParser
    from maxserve.core.interfaces.quantization import QuantizationFormat
    from maxserve.core.interfaces.request import SamplingParams
    from maxserve.core.interfaces.routes import Routes
    from maxserve.core.interfaces.runner import ModelRunner
    from maxserve.core.interfaces.sampler import Sampler
    from maxserve.core.interfaces.scheduler import Scheduler
    from maxserve.core.interfaces.speculator import Speculator
    from maxserve.core.interfaces.transport import Transport
    from maxserve.core.interfaces.weight_format import WeightFormat
    from maxserve.llm import LLM
    from maxserve.plugins.grammar.byte_grammar import ByteGrammar
    from maxserve.samplers.by_row import by_row

__all__ = [
    "LLM",
    "Adapter",
    "AdapterSource",
    "Architecture",
    "AttentionBackend",
    "Balancer",
    "ByteGrammar",
    "CacheFormat",
    "CacheStrategy",
    "ConfigSection",
    "Engine",
    "EvictionPolicy",
    "Executor",
    "GrammarBackend",
    "HttpServer",
    "LayerCompiler",
    "LinearMethod",
    "Middleware",
    "ModelLocation",
    "ModelQuery",
    "ModelRunner",
    "ModelSource",
    "Observer",
    "QuantizationFormat",
    "ReasoningParser",
    "Routes",
    "Sampler",
    "SamplingParams",
    "Scheduler",
    "Speculator",
    "ToolParser",
    "Transport",
    "WeightFormat",
    "WeightMap",
    "by_row",
    "hookimpl",
]


_ship(_BUILTINS)


_find = _exports(
    __name__,
    {
        "Adapter": "maxserve.core.interfaces.adapter",
        "AdapterSource": "maxserve.core.interfaces.adapter_source",
        "Architecture": "maxserve.core.interfaces.architecture",
        "AttentionBackend": "maxserve.core.interfaces.attention",
        "Balancer": "maxserve.core.interfaces.balancer",
        "ByteGrammar": "maxserve.plugins.grammar.byte_grammar",
        "CacheFormat": "maxserve.core.interfaces.cache",
        "CacheStrategy": "maxserve.core.interfaces.cache",
        "ConfigSection": "maxserve.core.interfaces.config",
        "Engine": "maxserve.core.interfaces.engine",
        "EvictionPolicy": "maxserve.core.interfaces.cache",
        "Executor": "maxserve.core.interfaces.executor",
        "GrammarBackend": "maxserve.core.interfaces.grammar",
        "HttpServer": "maxserve.core.interfaces.http_server",
        "LayerCompiler": "maxserve.core.interfaces.layer_compiler",
        "LinearMethod": "maxserve.core.interfaces.linear",
        "Middleware": "maxserve.core.interfaces.middleware",
        "ModelLocation": "maxserve.core.interfaces.model_source",
        "ModelQuery": "maxserve.core.interfaces.model_source",
        "ModelRunner": "maxserve.core.interfaces.runner",
        "ModelSource": "maxserve.core.interfaces.model_source",
        "Observer": "maxserve.core.interfaces.observer",
        "QuantizationFormat": "maxserve.core.interfaces.quantization",
        "ReasoningParser": "maxserve.core.interfaces.parsers",
        "Routes": "maxserve.core.interfaces.routes",
        "Sampler": "maxserve.core.interfaces.sampler",
        "SamplingParams": "maxserve.core.interfaces.request",
        "Scheduler": "maxserve.core.interfaces.scheduler",
        "Speculator": "maxserve.core.interfaces.speculator",
        "ToolParser": "maxserve.core.interfaces.parsers",
        "Transport": "maxserve.core.interfaces.transport",
        "WeightFormat": "maxserve.core.interfaces.weight_format",
        "WeightMap": "maxserve.core.interfaces.architecture",
        "by_row": "maxserve.samplers.by_row",
        "hookimpl": "maxserve.core.hookspecs",
    },
)


def __getattr__(name: str) -> Any:
    if name == "LLM":  # imports torch, so only when asked for
        from maxserve.core.runtime.openmp import wait_asleep

        wait_asleep()
        from maxserve.llm import LLM

        return LLM
    return _find(name)
