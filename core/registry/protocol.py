"""The plugins of a process, as the core and commands see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from maxserve.core.interfaces.component import Component, Components

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.config.settings import PluginSection
    from maxserve.core.interfaces.adapter import Adapter
    from maxserve.core.interfaces.architecture import Architecture
    from maxserve.core.interfaces.attention import AttentionBackend
    from maxserve.core.interfaces.cache import Cache, CacheContext, CacheStrategy
    from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
    from maxserve.core.interfaces.engine import GenerationContext, ServedEngine
    from maxserve.core.interfaces.errors import PluginError
    from maxserve.core.interfaces.grammar import GrammarBackend
    from maxserve.core.interfaces.layer_compiler import LayerCompiler
    from maxserve.core.interfaces.linear import LinearMethod
    from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
    from maxserve.core.interfaces.observer import Observer
    from maxserve.core.interfaces.parsers import ReasoningParser, ToolParser
    from maxserve.core.interfaces.process import ProcessInfo
    from maxserve.core.interfaces.quantization import QuantizationFormat
    from maxserve.core.interfaces.runner import ModelRunner
    from maxserve.core.interfaces.sampler import Sampler
    from maxserve.core.interfaces.scheduler import Scheduler
    from maxserve.core.interfaces.speculator import Speculator
    from maxserve.core.interfaces.tokenizer import TokenizerContext, TokenizerFiles
    from maxserve.core.interfaces.weight_format import WeightFormat
    from maxserve.core.registry.entries import Entry, Registry
    from maxserve.core.registry.manifest import Manifest
    from maxserve.core.registry.options import PluginOptions
    from maxserve.core.registry.selection import Plugin
    from maxserve.core.runtime.ahead import Ahead

__all__ = ["Host", "Invocation"]

D = TypeVar("D", bound=Component)


class Host(Components, Protocol):
    """What is known of the plugins of this process. The registry of a kind is `of(it)`; those that
    most builds look into have names of their own."""

    architectures: Registry[Architecture]
    cache_strategies: Registry[CacheStrategy]
    schedulers: Registry[Scheduler]
    samplers: Registry[Sampler]
    attention_backends: Registry[AttentionBackend]
    linear_methods: Registry[LinearMethod]
    adapters: Registry[Adapter]
    weight_formats: Registry[WeightFormat]
    quantization_formats: Registry[QuantizationFormat]
    layer_compilers: Registry[LayerCompiler]
    model_runners: Registry[ModelRunner]
    speculators: Registry[Speculator]
    grammar_backends: Registry[GrammarBackend]
    tool_parsers: Registry[ToolParser]
    reasoning_parsers: Registry[ReasoningParser]
    observers: Registry[Observer]
    registries: tuple[Registry[Any], ...]

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Every plugin there is, those left out included, in the order of discovery."""
        ...

    @property
    def problems(self) -> tuple[PluginError, ...]: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str:
        """Equal in all processes whose registries are equal."""
        ...

    def of(self, component: type[D]) -> Registry[D]:
        """The registry of what plugins declare as `component`."""
        ...

    def request_fields(self) -> Mapping[str, Entry[Sampler]]:
        """Samplers by the request fields they declare."""
        ...

    def plugin_sections(self) -> Sequence[PluginSection]:
        """The settings sections of plugins, with their schemas."""
        ...

    def section_values(self, settings: Settings) -> Mapping[type[Any], Any]:
        """One object per section, by its schema: what `Context.config` gives to builds."""
        ...

    def insist(self) -> None:
        """Raises the first problem; nothing if the operator tolerates problems."""

    def manifest(self) -> Manifest:
        """What makes an equal host in another process."""
        ...

    def process_start(self, process: ProcessInfo) -> None:
        """Tells every plugin that this process starts; what one raises stops the start."""

    def cache_built(self, cache: Cache, context: CacheContext) -> None:
        """Tells every plugin of the worker's cache; what one raises stops the start."""

    def engine_built(self, engine: ServedEngine, context: GenerationContext) -> ServedEngine:
        """What plugins have served instead of the engine, or the engine."""
        ...

    def model_source(self, ref: str, query: ModelQuery) -> ModelSource | None:
        """Where plugins say that a model lies."""
        ...

    def tokenizer(self, context: TokenizerContext) -> TokenizerFiles:
        """What reads the tokenizer of a model; ModelError where nothing does."""
        ...

    def chat_template(self, context: ChatTemplateContext) -> ChatTemplate | None:
        """What writes the prompts of a model's conversations; None where it has no template."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What commands work with: the plugins that were found, the environment, and maybe a worker that has begun."""

    host: Host
    options: PluginOptions
    environ: Mapping[str, str]
    ahead: Ahead | None = None
