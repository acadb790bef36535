"""Every hook once, in a plugin as small as it can be. A meta-test wants one test called after each."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.adapter_source import AdapterSource
from maxserve.core.interfaces.balancer import Balancer
from maxserve.core.interfaces.cache import CacheFormat, EvictionPolicy
from maxserve.core.interfaces.chat_template import ChatTemplateContext
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.executor import Executor
from maxserve.core.interfaces.http_server import HttpServer
from maxserve.core.interfaces.middleware import Middleware
from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.interfaces.process import ProcessInfo
from maxserve.core.interfaces.tokenizer import TokenizerContext
from maxserve.core.interfaces.transport import Transport
from maxserve.core.loading.progress import NullProgress
from maxserve.plugins.tokenizers.folder import TokenizerFolder

Load = Callable[[str], Any]

PREAMBLE = """
import maxserve
from unittest.mock import create_autospec
from fastapi import APIRouter
from maxserve import hookimpl
from maxserve.core.registry.contracts import PROTOCOLS

def built(kind):
    def build(context):
        made = APIRouter() if kind == "routes" else create_autospec(PROTOCOLS[kind], instance=True)
        made.block_tables = made.layers = made.dtype = made.types = made.wakes = made.peer = ()
        made.given = context
        return made

    return build
"""


@pytest.fixture
def load(plugin_folder: Any, plugin_host: Any) -> Load:
    """A host with a plugin of the given text."""

    def load(text: str) -> Any:
        plugin_folder.module("acme_llm", PREAMBLE + text)
        return plugin_host("acme_llm")

    return load


def test_maxserve_config(load: Load) -> None:
    host = load("""
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Config:
    aging: float = 50.0

@hookimpl
def maxserve_config():
    yield maxserve.ConfigSection(name="shortest-first", schema="acme_llm:Config")
""")
    environ = {"MAX_SERVE_SHORTEST_FIRST_AGING": "80"}
    settings = resolve({}, environ=environ, sections=host.plugin_sections())
    (value,) = [v for v in host.section_values(settings).values() if type(v).__module__ == "acme_llm"]
    assert value.aging == 80.0


def test_maxserve_commands(load: Load, max_cli: Any) -> None:
    load("""
import click

@hookimpl
def maxserve_commands(cli):
    @cli.command()
    @click.argument("name")
    def hello(name):
        "Say hello."
        click.echo(f"hello {name}")
""")
    assert max_cli("--plugin", "acme_llm", "hello", "you").out == "hello you\n"
    assert "Say hello." in max_cli("--help", "--plugin", "acme_llm").out


def test_maxserve_architectures(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_architectures():
    yield maxserve.Architecture(name="AcmeForCausalLM", build="acme_llm:model")

def model(config):
    return ("model", config)
""")
    assert host.build(host.architectures.get("AcmeForCausalLM"), "config") == ("model", "config")


def test_maxserve_cache_strategies(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_cache_strategies():
    return [maxserve.CacheStrategy(name="hits", build=built("cache_strategy"), shares_prefixes=False)]
""")
    entry = host.cache_strategies.get("hits")
    assert host.build(entry, "context").given == "context"
    assert not entry.component.shares_prefixes


def test_maxserve_eviction_policies(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_eviction_policies():
    yield maxserve.EvictionPolicy(name="pinned-last", build=built("eviction_policy"))
""")
    entry = host.of(EvictionPolicy).get("pinned-last")
    assert host.build(entry, "context").given == "context"


def test_maxserve_cache_formats(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_cache_formats():
    yield maxserve.CacheFormat(name="int4", build=built("cache_format"))
""")
    entry = host.of(CacheFormat).get("int4")
    assert host.build(entry, "context").given == "context"


def test_maxserve_schedulers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_schedulers():
    yield maxserve.Scheduler(name="shortest-first", build=built("scheduler"))
""")
    assert host.build(host.schedulers.get("shortest-first"), "context").given == "context"


def test_maxserve_samplers(load: Load) -> None:
    host = load("""
from dataclasses import dataclass

@dataclass(frozen=True, slots=True)
class Floor:
    logit_floor: float = 0.0

@hookimpl
def maxserve_samplers():
    yield maxserve.Sampler(name="floor", params=Floor, build=built("sampler"), stage=45)
""")
    assert host.build(host.samplers.get("floor"), "context").given == "context"
    assert host.request_fields()["logit_floor"].name == "floor"


def test_maxserve_attention_backends(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_attention_backends():
    yield maxserve.AttentionBackend(name="acme", build=built("attention_backend"), devices=("cuda",), priority=10)
""")
    entry = host.attention_backends.get("acme")
    assert (entry.component.devices, entry.component.priority) == (("cuda",), 10)
    assert host.build(entry, "context").given == "context"


def test_maxserve_linear_methods(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_linear_methods():
    yield maxserve.LinearMethod(name="acme", build=built("linear_method"), devices=("cpu",), priority=20)
""")
    entry = host.linear_methods.get("acme")
    assert (entry.component.devices, entry.component.priority, entry.component.compiled) == (("cpu",), 20, False)
    assert host.build(entry, "context").given == "context"


def test_maxserve_adapters(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_adapters():
    yield maxserve.Adapter(name="acme", build=built("adapter"))
""")
    assert host.build(host.adapters.get("acme"), "context").given == "context"


def test_maxserve_weight_formats(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_weight_formats():
    yield maxserve.WeightFormat(name="acme", build=built("weight_format"), suffixes=(".acme",))
""")
    entry = host.weight_formats.get("acme")
    assert entry.component.suffixes == (".acme",)
    assert host.build(entry, "context").given == "context"


def test_maxserve_quantization_formats(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_quantization_formats():
    yield maxserve.QuantizationFormat(name="acme4", build=built("quantization_format"), match="acme:matches")
""")
    entry = host.quantization_formats.get("acme4")
    assert entry.component.match == "acme:matches"
    assert host.build(entry, "context").given == "context"


def test_maxserve_layer_compilers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_layer_compilers():
    yield maxserve.LayerCompiler(name="acme", build=built("layer_compiler"), compiled=True)
""")
    entry = host.layer_compilers.get("acme")
    assert entry.component.compiled
    assert host.build(entry, "context").given == "context"


def test_maxserve_model_runners(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_model_runners():
    yield maxserve.ModelRunner(name="acme", build=built("model_runner"), devices=("cuda",), priority=10)
""")
    entry = host.model_runners.get("acme")
    assert (entry.component.devices, entry.component.priority) == (("cuda",), 10)
    assert host.build(entry, "context").given == "context"


def test_maxserve_speculators(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_speculators():
    yield maxserve.Speculator(name="acme", build=built("speculator"))
""")
    assert host.build(host.speculators.get("acme"), "context").given == "context"


def test_maxserve_grammar_backends(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_grammar_backends():
    yield maxserve.GrammarBackend(name="acme", build=built("grammar_backend"), accepts=frozenset({"regex"}))
""")
    entry = host.grammar_backends.get("acme")
    assert (entry.component.accepts, entry.component.rollback) == (frozenset({"regex"}), True)
    assert host.build(entry, "context").given == "context"


def test_maxserve_process_start(load: Load) -> None:
    host = load("""
seen = []

@hookimpl
def maxserve_process_start(process):
    seen.append((process.kind, process.rank))
    process.on_exit(lambda: seen.append("ended"))
""")
    import acme_llm  # type: ignore[import-not-found]

    process = ProcessInfo(kind="worker", rank=3)
    host.process_start(process)
    assert acme_llm.seen == [("worker", 3)]
    process.exit()
    assert acme_llm.seen == [("worker", 3), "ended"]


def test_maxserve_cache_built(load: Load) -> None:
    host = load("""
seen = []

@hookimpl
def maxserve_cache_built(cache, context):
    seen.append((cache, context))
""")
    import acme_llm  # type: ignore[import-not-found]

    cache, context = SimpleNamespace(), Context()
    host.cache_built(cache, context)
    assert acme_llm.seen == [(cache, context)]


def test_maxserve_engine_built(load: Load) -> None:
    host = load("""
from types import SimpleNamespace

@hookimpl
def maxserve_engine_built(engine, context):
    return SimpleNamespace(inner=engine, context=context)
""")
    engine: Any = SimpleNamespace(name="the engine")
    context = Context()
    served: Any = host.engine_built(engine, context)
    assert (served.inner, served.context) == (engine, context)


def test_maxserve_transports(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_transports():
    yield maxserve.Transport(name="acme", build=built("transport"))
""")
    assert host.build(host.of(Transport).get("acme"), "context").given == "context"


def test_maxserve_executors(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_executors():
    yield maxserve.Executor(name="acme", build=built("executor"))
""")
    assert host.build(host.of(Executor).get("acme"), "context").given == "context"


def test_maxserve_balancers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_balancers():
    yield maxserve.Balancer(name="acme", build=built("balancer"))
""")
    assert host.build(host.of(Balancer).get("acme"), "context").given == "context"


def test_maxserve_http_servers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_http_servers():
    yield maxserve.HttpServer(name="acme", build=built("http_server"))
""")
    assert host.build(host.of(HttpServer).get("acme"), "context").given == "context"


def test_maxserve_adapter_sources(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_adapter_sources():
    yield maxserve.AdapterSource(name="acme", build=built("adapter_source"))
""")
    assert host.build(host.of(AdapterSource).get("acme"), "context").given == "context"
    asked = [entry.name for entry in host.of(AdapterSource).last_registered_first()]
    assert asked == ["acme", "demo", "lora-dir", "huggingface"]


def test_maxserve_middleware(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_middleware():
    yield maxserve.Middleware(name="acme", build=lambda context: lambda app: (context, app), after=("access",))
""")
    entry = host.of(Middleware).get("acme")
    assert entry.component.after == ("access",)
    assert host.build(entry, "context")("app") == ("context", "app")


def test_maxserve_routes(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_routes():
    yield maxserve.Routes(name="acme", build=built("routes"))
""")
    entry = host.routes.get("acme")
    assert (entry.plugin, entry.component.prefix) == ("acme_llm", "")
    assert host.build(entry, "context").given == "context"


def test_maxserve_tool_parsers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_tool_parsers():
    yield maxserve.ToolParser(name="acme", build=built("tool_parser"), markers=("<call>",))
""")
    entry = host.tool_parsers.get("acme")
    assert entry.component.markers == ("<call>",)
    assert host.build(entry, "context").given == "context"


def test_maxserve_reasoning_parsers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_reasoning_parsers():
    yield maxserve.ReasoningParser(name="acme", build=built("reasoning_parser"), recognises=lambda template: 1)
""")
    entry = host.reasoning_parsers.get("acme")
    assert host.load(entry, entry.component.recognises)("") == 1
    assert host.build(entry, "context").given == "context"


def test_maxserve_observers(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_observers():
    yield maxserve.Observer(name="statsd", build=built("observer"))
""")
    assert host.build(host.observers.get("statsd"), "context").given == "context"


def test_maxserve_engines(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_engines():
    yield maxserve.Engine(name="acme", tasks=("classification",), build="acme.engine:build")
""")
    assert host.engines.get("acme").component.tasks == ("classification",)


QUERY = ModelQuery(progress=NullProgress())


def test_maxserve_chat_template(load: Load) -> None:
    host = load("""
class Dialog:
    def source(self, *, tools=False):
        return None

    def render(self, variables, *, tools=False):
        return variables["messages"][0]["content"] + "<end>"

    def end_tokens(self, special, added):
        return ["<end>"]

@hookimpl
def maxserve_chat_template(context):
    return Dialog() if context.path == "/acme" else None
""")
    template = host.chat_template(ChatTemplateContext(path="/acme"))
    assert template.render({"messages": [{"content": "hi"}]}) == "hi<end>"
    assert host.chat_template(ChatTemplateContext(path="/nowhere")) is None


def test_maxserve_tokenizer(load: Load) -> None:
    host = load("""
class Files:
    def special_tokens(self):
        return "the special tokens"

    def load(self):
        return "a tokenizer"

@hookimpl
def maxserve_tokenizer(context):
    return Files() if context.path == "/acme" else None
""")
    assert host.tokenizer(TokenizerContext(path="/acme")).load() == "a tokenizer"
    assert isinstance(host.tokenizer(TokenizerContext(path="/nowhere")), TokenizerFolder)


def test_maxserve_model_source(load: Load) -> None:
    host = load("""
@hookimpl
def maxserve_model_source(ref):
    return maxserve.ModelSource(path="/models/acme") if ref == "acme/demo" else None
""")
    assert host.model_source("acme/demo", QUERY) == ModelSource(path="/models/acme")
    assert host.model_source("./acme/other", QUERY) is None
