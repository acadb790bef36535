"""Every hook there is. A plugin implements the ones it needs with `@hookimpl`.

Each hook is called once per process, at start, and answers "what do you offer?" with declarations from
`maxserve.interfaces`. None is called while requests are served.
"""

# A specification is never called: it has no body.
# mypy: disable-error-code="empty-body"
# pyright: reportReturnType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

from maxserve.core.interfaces.adapter import Adapter
from maxserve.core.interfaces.adapter_source import AdapterSource
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.attention import AttentionBackend
from maxserve.core.interfaces.balancer import Balancer
from maxserve.core.interfaces.cache import CacheFormat, CacheStrategy, EvictionPolicy
from maxserve.core.interfaces.chat_template import ChatTemplate, ChatTemplateContext
from maxserve.core.interfaces.config import ConfigSection
from maxserve.core.interfaces.engine import Engine
from maxserve.core.interfaces.executor import Executor
from maxserve.core.interfaces.grammar import GrammarBackend
from maxserve.core.interfaces.http_server import HttpServer
from maxserve.core.interfaces.layer_compiler import LayerCompiler
from maxserve.core.interfaces.linear import LinearMethod
from maxserve.core.interfaces.middleware import Middleware
from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.interfaces.observer import Observer
from maxserve.core.interfaces.parsers import ReasoningParser, ToolParser
from maxserve.core.interfaces.quantization import QuantizationFormat
from maxserve.core.interfaces.routes import Routes
from maxserve.core.interfaces.runner import ModelRunner
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.interfaces.speculator import Speculator
from maxserve.core.interfaces.tokenizer import TokenizerContext, TokenizerFiles
from maxserve.core.interfaces.transport import Transport
from maxserve.core.interfaces.weight_format import WeightFormat

if TYPE_CHECKING:
    import click

    from maxserve.core.interfaces.cache import Cache, CacheContext
    from maxserve.core.interfaces.engine import GenerationContext, ServedEngine
    from maxserve.core.interfaces.process import ProcessInfo
    from maxserve.core.registry.protocol import Invocation

PROJECT = "maxserve"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

# --- before the command line is built -------------------------------------------------------------------------


@hookspec
def maxserve_config() -> Iterable[ConfigSection]:
    """The plugin's own settings.

    Example: ``yield ConfigSection(name="shortest-first", schema=Config)``
    """


@hookspec
def maxserve_commands(cli: click.Group, invocation: Invocation) -> None:
    """Adds subcommands to `max`; replacing an existing one is an error.

    Example: ``cli.add_command(my_command)``
    """


# --- when the host starts, in the API process and in every worker ---------------------------------------------


@hookspec
def maxserve_architectures() -> Iterable[Architecture]:
    """Model families.

    Example: ``yield Architecture(name="AcmeForCausalLM", build="acme.model:Model")``
    """


@hookspec
def maxserve_engines() -> Iterable[Engine]:
    """What serves models of further tasks.

    Example: ``yield Engine(name="acme", tasks=("classification",), build="acme.engine:build")``
    """


@hookspec
def maxserve_cache_strategies() -> Iterable[CacheStrategy]:
    """Keepers of keys and values.

    Example: ``yield CacheStrategy(name="hits-per-token", build="acme.cache:build")``
    """


@hookspec
def maxserve_eviction_policies() -> Iterable[EvictionPolicy]:
    """Orders in which cached prefixes go when pages run out.

    Example: ``yield EvictionPolicy(name="pinned-last", build="acme.eviction:PinnedLast")``
    """


@hookspec
def maxserve_cache_formats() -> Iterable[CacheFormat]:
    """Forms in which keys and values are stored.

    Example: ``yield CacheFormat(name="int4", build="acme.int4:Int4")``
    """


@hookspec
def maxserve_schedulers() -> Iterable[Scheduler]:
    """Policies that decide who runs in a step.

    Example: ``yield Scheduler(name="shortest-first", build="acme.policy:ShortestFirst")``
    """


@hookspec
def maxserve_samplers() -> Iterable[Sampler]:
    """Logit transforms requests can ask for.

    Example: ``yield Sampler(name="min_p", params="acme:MinP", build="acme.min_p:build")``
    """


@hookspec
def maxserve_attention_backends() -> Iterable[AttentionBackend]:
    """Ways to attend over the cache.

    Example: ``yield AttentionBackend(name="torch", build="acme.attention:Paged", devices=("cpu",))``
    """


@hookspec
def maxserve_linear_methods() -> Iterable[LinearMethod]:
    """Ways to store weights and to multiply by them.

    Example: ``yield LinearMethod(name="packed", build="acme.linear:Packed", devices=("cpu",))``
    """


@hookspec
def maxserve_adapters() -> Iterable[Adapter]:
    """Ways to adapt a model to requests.

    Example: ``yield Adapter(name="acme", build="acme.adapters:Table")``
    """


@hookspec
def maxserve_weight_formats() -> Iterable[WeightFormat]:
    """Formats of the files that hold weights.

    Example: ``yield WeightFormat(name="acme", build="acme.files:Format", suffixes=(".acme",))``
    """


@hookspec
def maxserve_quantization_formats() -> Iterable[QuantizationFormat]:
    """Formats in which checkpoints hold quantized weights.

    Example: ``yield QuantizationFormat(name="acme4", build="acme.format:Acme4")``
    """


@hookspec
def maxserve_layer_compilers() -> Iterable[LayerCompiler]:
    """Ways to make one call of a whole layer, or of all layers.

    Example: ``yield LayerCompiler(name="acme", build="acme.layers:Compiler", devices=("cuda",))``
    """


@hookspec
def maxserve_model_runners() -> Iterable[ModelRunner]:
    """Ways to run a model on the inputs of a step.

    Example: ``yield ModelRunner(name="acme", build="acme.runner:Runner", devices=("cuda",))``
    """


@hookspec
def maxserve_speculators() -> Iterable[Speculator]:
    """Speculative methods: who drafts tokens that the model then verifies.

    Example: ``yield Speculator(name="acme", build="acme.drafter:Drafter")``
    """


@hookspec
def maxserve_grammar_backends() -> Iterable[GrammarBackend]:
    """Ways to keep texts within a grammar.

    Example: ``yield GrammarBackend(name="acme", build="acme.grammar:Compiler", accepts=frozenset({"regex"}))``
    """


@hookspec
def maxserve_transports() -> Iterable[Transport]:
    """Ways in which keys and values come from one server to another.

    Example: ``yield Transport(name="acme", build="acme.fabric:Fabric")``
    """


@hookspec(firstresult=True)
def maxserve_tokenizer(context: TokenizerContext) -> TokenizerFiles | None:
    """What reads the tokenizer of a model; the first answer that is not None wins.

    Example: ``return Files(context.path) if Path(context.path, "acme.vocab").is_file() else None``
    """


@hookspec(firstresult=True)
def maxserve_chat_template(context: ChatTemplateContext) -> ChatTemplate | None:
    """What writes the prompts of a model's conversations; the first answer that is not None wins.

    Example: ``return Dialog() if "acme" in context.path else None``
    """


@hookspec
def maxserve_process_start(process: ProcessInfo) -> None:
    """Runs after the registries are filled, before any device is used; may raise to stop the start.

    Example: ``process.on_exit(close_my_file)``
    """


@hookspec
def maxserve_cache_built(cache: Cache, context: CacheContext) -> None:
    """Runs when a worker has built its cache, which is empty; may raise to stop the start.

    Example: ``cache.listen(MyListener(context.page_size))``
    """


@hookspec
def maxserve_engine_built(engine: ServedEngine, context: GenerationContext) -> ServedEngine | None:
    """Runs when a worker's engine for text is ready; what a plugin returns is served instead, and may ask this one.

    Example: ``return Counting(engine)``
    """


# --- in the API process only ----------------------------------------------------------------------------------


@hookspec
def maxserve_executors() -> Iterable[Executor]:
    """Where the worker of a model runs.

    Example: ``yield Executor(name="acme", build="acme.executor:Launcher")``
    """


@hookspec
def maxserve_balancers() -> Iterable[Balancer]:
    """What spreads requests over the replicas of a model.

    Example: ``yield Balancer(name="acme", build="acme.balancer:Shortest")``
    """


@hookspec
def maxserve_http_servers() -> Iterable[HttpServer]:
    """What speaks HTTP on the port.

    Example: ``yield HttpServer(name="acme", build="acme.server:Server")``
    """


@hookspec
def maxserve_adapter_sources() -> Iterable[AdapterSource]:
    """Where adapters are that requests name before they are loaded.

    Example: ``yield AdapterSource(name="acme", build="acme.adapters:Shelf")``
    """


@hookspec
def maxserve_middleware() -> Iterable[Middleware]:
    """What every request passes before it comes to a route.

    Example: ``yield Middleware(name="acme-login", build="acme.login:build", after=("access",))``
    """


@hookspec
def maxserve_routes() -> Iterable[Routes]:
    """HTTP routes, served by default or when the operator names the plugin in `--enable-routes`.

    Example: ``yield Routes(name="acme", build="acme.http:router")``
    """


@hookspec
def maxserve_tool_parsers() -> Iterable[ToolParser]:
    """Ways in which models write tool calls.

    Example: ``yield ToolParser(name="acme", build="acme.calls:Reader", markers=("<call>",))``
    """


@hookspec
def maxserve_reasoning_parsers() -> Iterable[ReasoningParser]:
    """Forms in which models mark their reasoning.

    Example: ``yield ReasoningParser(name="acme", build="acme.thoughts:Reader", markers=("<thought>",))``
    """


@hookspec
def maxserve_observers() -> Iterable[Observer]:
    """Sinks of statistics.

    Example: ``yield Observer(name="statsd", build="acme.statsd:Observer")``
    """


@hookspec(firstresult=True)
def maxserve_model_source(ref: str, query: ModelQuery) -> ModelSource | None:
    """Resolves a model reference the plugin knows; the first answer that is not None wins.

    Example: ``return ModelSource(path="/models/acme") if ref == "acme/demo" else None``
    """
