"""maxserve: a model server in which everything is a plugin. These names are what plugins and library users import."""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING, Any

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.adapter import Adapter
from maxserve.core.interfaces.adapter_source import AdapterSource
from maxserve.core.interfaces.architecture import Architecture, WeightMap
from maxserve.core.interfaces.attention import AttentionBackend
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
from maxserve.core.interfaces.weight_format import WeightFormat
from maxserve.core.registry.builtins import ship as _ship
from maxserve.plugins import BUILTINS as _BUILTINS

if TYPE_CHECKING:
    from maxserve.llm import LLM
    from maxserve.plugins.grammar.byte_grammar import ByteGrammar
    from maxserve.samplers.by_row import by_row

__all__ = [
    "LLM",
    "Adapter",
    "AdapterSource",
    "Architecture",
    "AttentionBackend",
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
    "WeightFormat",
    "WeightMap",
    "by_row",
    "hookimpl",
]


_ship(_BUILTINS)


_LATER = {"ByteGrammar": "maxserve.plugins.grammar.byte_grammar", "by_row": "maxserve.samplers.by_row"}


def __getattr__(name: str) -> Any:
    if name in _LATER:  # built on what plugins import from here
        return getattr(_import_module(_LATER[name]), name)
    if name == "LLM":  # imports torch, so only when asked for
        from maxserve.core.runtime.openmp import wait_asleep

        wait_asleep()
        from maxserve.llm import LLM

        return LLM
    raise AttributeError(f"module 'maxserve' has no attribute {name!r}")
