"""The table of kinds of plugin: a new kind is a line here, a hook, and a file in core/interfaces."""

from __future__ import annotations

from typing import Any

import msgspec

from maxserve.core.interfaces.adapter import Adapter, AdapterTable
from maxserve.core.interfaces.adapter_source import AdapterSource, FindsAdapters
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.attention import Attention, AttentionBackend
from maxserve.core.interfaces.balancer import Balancer, BalancesReplicas
from maxserve.core.interfaces.cache import (
    BuiltCacheFormat,
    Cache,
    CacheFormat,
    CacheStrategy,
    EvictionPolicy,
    NodeOrder,
)
from maxserve.core.interfaces.component import Component
from maxserve.core.interfaces.engine import Engine, ServedEngine
from maxserve.core.interfaces.executor import Executor, WorkerLauncher
from maxserve.core.interfaces.grammar import GrammarBackend, GrammarCompiler
from maxserve.core.interfaces.http_server import HttpServer, ServesHttp
from maxserve.core.interfaces.layer_compiler import CompilesLayers, LayerCompiler
from maxserve.core.interfaces.linear import BuiltLinearMethod, LinearMethod
from maxserve.core.interfaces.middleware import Middleware
from maxserve.core.interfaces.observer import Observer, StatsObserver
from maxserve.core.interfaces.parsers import ReadsAnswer, ReasoningParser, ToolParser
from maxserve.core.interfaces.quantization import BuiltQuantizationFormat, QuantizationFormat
from maxserve.core.interfaces.routes import Routes
from maxserve.core.interfaces.runner import ModelRunner, Runner
from maxserve.core.interfaces.sampler import LogitTransform, Sampler
from maxserve.core.interfaces.scheduler import Scheduler, StepPolicy
from maxserve.core.interfaces.speculator import Drafter, Speculator
from maxserve.core.interfaces.transport import MovesPieces, Transport
from maxserve.core.interfaces.weight_format import BuiltWeightFormat, WeightFormat


class Kind(msgspec.Struct, frozen=True):
    """A kind of component: the hook that declares it, what its `build` gives, whether workers have it, too.

    `builds` is the Protocol that is checked right after a build; None where it is checked elsewhere: a model with its
    spec, a router with its routes, middleware
    with its order.
    """

    component: type[Component]
    hook: str
    builds: type[Any] | None = None
    in_workers: bool = True

    @property
    def name(self) -> str:
        return self.component.kind

    @property
    def registry(self) -> str:
        """The attribute of a host that has the registry."""
        return self.hook.removeprefix("maxserve_")


KINDS = (
    Kind(Architecture, "maxserve_architectures"),
    Kind(Engine, "maxserve_engines", ServedEngine),
    Kind(CacheStrategy, "maxserve_cache_strategies", Cache),
    Kind(EvictionPolicy, "maxserve_eviction_policies", NodeOrder),
    Kind(CacheFormat, "maxserve_cache_formats", BuiltCacheFormat),
    Kind(Scheduler, "maxserve_schedulers", StepPolicy),
    Kind(Sampler, "maxserve_samplers", LogitTransform),
    Kind(AttentionBackend, "maxserve_attention_backends", Attention),
    Kind(LinearMethod, "maxserve_linear_methods", BuiltLinearMethod),
    Kind(Adapter, "maxserve_adapters", AdapterTable),
    Kind(WeightFormat, "maxserve_weight_formats", BuiltWeightFormat),
    Kind(QuantizationFormat, "maxserve_quantization_formats", BuiltQuantizationFormat),
    Kind(LayerCompiler, "maxserve_layer_compilers", CompilesLayers),
    Kind(ModelRunner, "maxserve_model_runners", Runner),
    Kind(Speculator, "maxserve_speculators", Drafter),
    Kind(GrammarBackend, "maxserve_grammar_backends", GrammarCompiler),
    Kind(Transport, "maxserve_transports", MovesPieces),
    Kind(Executor, "maxserve_executors", WorkerLauncher, in_workers=False),
    Kind(Balancer, "maxserve_balancers", BalancesReplicas, in_workers=False),
    Kind(HttpServer, "maxserve_http_servers", ServesHttp, in_workers=False),
    Kind(AdapterSource, "maxserve_adapter_sources", FindsAdapters),
    Kind(Middleware, "maxserve_middleware", in_workers=False),
    Kind(Routes, "maxserve_routes", in_workers=False),
    Kind(ToolParser, "maxserve_tool_parsers", ReadsAnswer, in_workers=False),
    Kind(ReasoningParser, "maxserve_reasoning_parsers", ReadsAnswer, in_workers=False),
    Kind(Observer, "maxserve_observers", StatsObserver, in_workers=False),
)
