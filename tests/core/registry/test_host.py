"""The host: strict and lenient, workers, builds, and the errors of plugins that fail."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest

from maxserve.core.config import resolve
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.chat_template import ChatTemplateContext
from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.config import ConfigSection
from maxserve.core.interfaces.errors import ModelError, PluginError
from maxserve.core.interfaces.model_source import ModelQuery, ModelSource
from maxserve.core.interfaces.process import ProcessInfo
from maxserve.core.interfaces.sampler import Sampler
from maxserve.core.interfaces.scheduler import Scheduler
from maxserve.core.interfaces.tokenizer import TokenizerContext
from maxserve.core.loading.progress import NullProgress
from maxserve.core.registry.host import Manifest, PluginHost, PluginOptions

SCHEDULER = """
from maxserve import Scheduler, hookimpl

class Policy:
    def __init__(self, context):
        self.context = context

    def plan(self, view, plan):
        pass

def build(context):
    return Policy(context)

@hookimpl
def maxserve_schedulers():
    yield Scheduler(name={name!r}, build="{module}:build", summary="a test's")
"""


def scheduler_plugin(plugin_folder: Any, module: str, name: str) -> str:
    plugin_folder.module(module, SCHEDULER.format(module=module, name=name))
    return module


def hooks(**functions: Any) -> SimpleNamespace:
    """An object with the given hooks."""
    return SimpleNamespace(**{f"maxserve_{name}": hookimpl(function) for name, function in functions.items()})


def refusal(plugin_host: Any, *plugins: Any, **options: Any) -> str:
    with pytest.raises(PluginError) as error:
        plugin_host(*plugins, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_built_ins_fill_the_registries(plugin_host: Any) -> None:
    host = plugin_host()
    assert "LlamaForCausalLM" in host.architectures
    assert "paged" in host.cache_strategies
    assert "continuous" in host.schedulers
    assert "temperature" in host.samplers
    assert {"torch", "native"} <= set(host.attention_backends.names())
    assert "native" in host.linear_methods
    assert {"awq", "bitsandbytes", "compressed-tensors", "fp8", "gguf", "gptq", "modelopt", "mxfp4"} <= set(
        host.quantization_formats.names()
    )
    assert "safetensors" in host.weight_formats
    assert "native" in host.layer_compilers
    assert "eager" in host.model_runners
    assert "openai" in host.routes
    assert {"hermes", "json", "llama3_json", "mistral", "pythonic"} <= set(host.tool_parsers.names())
    assert "think" in host.reasoning_parsers
    assert {registry.kind for registry in host.registries} == {
        "architecture",
        "engine",
        "cache_strategy",
        "eviction_policy",
        "cache_format",
        "scheduler",
        "sampler",
        "attention_backend",
        "linear_method",
        "adapter",
        "quantization_format",
        "weight_format",
        "layer_compiler",
        "model_runner",
        "speculator",
        "grammar_backend",
        "transport",
        "executor",
        "balancer",
        "http_server",
        "adapter_source",
        "middleware",
        "routes",
        "tool_parser",
        "reasoning_parser",
        "observer",
    }
    assert host.problems == ()


def test_a_strangers_plugin_stands_beside_the_built_ins_with_its_provenance(
    plugin_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler_plugin(plugin_folder, "acme_llm", "acme")
    plugin_folder.distribution("acme-llm", "1.2", {"acme": "acme_llm"})
    host = PluginHost.discover(PluginOptions(allow=("acme",)), strict=True)
    entry = host.schedulers.get("acme")
    assert (entry.plugin, entry.distribution, entry.version, entry.where) == (
        "acme",
        "acme-llm",
        "1.2",
        "acme_llm:build",
    )
    (plugin,) = [plugin for plugin in host.plugins if plugin.name == "acme"]
    assert plugin.active
    assert plugin.hooks == ("maxserve_schedulers",)
    assert plugin.import_ms is not None
    assert plugin.source.path == str(plugin_folder.path / "acme_llm.py")


def test_import_error_names_plugin_distribution_cause_and_way_out(plugin_folder: Any) -> None:
    plugin_folder.module("acme_llm", "import does_not_exist_anywhere")
    plugin_folder.distribution("acme-llm", "1.2", {"acme": "acme_llm"})
    with pytest.raises(PluginError) as error:
        PluginHost.discover(PluginOptions(), strict=True)
    assert str(error.value) == (
        "plugin 'acme' (acme-llm 1.2): cannot import 'acme_llm': ModuleNotFoundError: "
        "No module named 'does_not_exist_anywhere'; leave it out with --no-plugin acme"
    )
    assert PluginHost.discover(PluginOptions(no_plugin=("acme",)), strict=True).problems == ()


def test_lenient_host_goes_on_without_the_broken_plugin(plugin_folder: Any, plugin_host: Any) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    good = scheduler_plugin(plugin_folder, "acme_good", "acme")
    host = plugin_host("acme_bad", good, strict=False)
    assert "acme" in host.schedulers
    broken = {plugin.name: plugin for plugin in host.plugins}["acme_bad"]
    assert broken.status == "broken"
    assert "ZeroDivisionError: division by zero" in broken.error
    assert [str(error) for error in host.problems] == [broken.error]
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        host.insist()


def test_a_tolerant_operator_gets_a_strict_host_without_the_broken_plugin(
    plugin_folder: Any, plugin_host: Any, spawned: Any
) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    host = plugin_host("acme_bad", tolerant=True)
    host.insist()
    assert len(host.problems) == 1
    assert spawned(host) == host.fingerprint


def test_plugin_without_hooks(plugin_host: Any) -> None:
    text = refusal(plugin_host, SimpleNamespace())
    assert "declares nothing: no function is marked @hookimpl" in text


def test_plugin_that_forgot_the_mark(plugin_host: Any) -> None:
    text = refusal(plugin_host, SimpleNamespace(maxserve_samplers=list))
    assert "declares nothing: maxserve_samplers is not marked @hookimpl" in text


def test_unknown_hook_with_what_is_near(plugin_host: Any) -> None:
    text = refusal(plugin_host, hooks(sampler=lambda: ()))
    assert "there is no hook maxserve_sampler (did you mean 'maxserve_samplers'?)" in text
    assert "@hookimpl(optionalhook=True)" in text


def test_optional_hook_may_be_unknown(plugin_host: Any) -> None:
    plugin = SimpleNamespace(maxserve_future=hookimpl(optionalhook=True)(lambda: ()))
    assert plugin_host(plugin).problems == ()


def test_wrappers_are_refused(plugin_host: Any) -> None:
    @hookimpl(wrapper=True)
    def maxserve_samplers() -> Any:
        yield

    assert "maxserve_samplers is a wrapper" in refusal(
        plugin_host, SimpleNamespace(maxserve_samplers=maxserve_samplers)
    )


def test_unknown_argument_of_a_hook_is_one_line(plugin_host: Any) -> None:
    text = refusal(plugin_host, hooks(samplers=lambda engine: []))
    assert "'engine'" in text
    assert "maxserve_samplers" in text


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: [Scheduler(name="x", build="x:y")], "of type Scheduler; it must give maxserve.Sampler"),
        (lambda: ["min_p"], "maxserve_samplers gave 'min_p', of type str; it must give maxserve.Sampler"),
        (lambda: None, "maxserve_samplers returned None, of type NoneType; it must give maxserve.Sampler"),
    ],
)
def test_wrong_answer_is_named(plugin_host: Any, answer: Any, message: str) -> None:
    assert message in refusal(plugin_host, hooks(samplers=answer))


def test_hook_that_raises(plugin_host: Any) -> None:
    def fail() -> Any:
        yield Sampler(name="x", build="x:y")
        raise RuntimeError("no luck")

    assert "maxserve_samplers: RuntimeError: no luck" in refusal(plugin_host, hooks(samplers=fail))


def test_a_plugin_that_fails_in_one_hook_gives_nothing_at_all(plugin_host: Any, spawned: Any) -> None:
    plugin = hooks(schedulers=lambda: [Scheduler(name="x", build="x:y")], samplers=lambda: None)
    host = plugin_host(plugin, strict=False)
    assert "x" not in host.schedulers
    assert spawned(host) == host.fingerprint


def test_unknown_field_needs_a_newer_maxserve(plugin_host: Any) -> None:
    def declare() -> Any:
        yield Sampler(name="x", build="x:y", quantum=True)  # type: ignore[call-arg]

    text = refusal(plugin_host, hooks(samplers=declare))
    assert "Sampler has no field 'quantum' in this maxserve" in text
    assert "the plugin needs a newer maxserve" in text


def test_a_type_error_of_the_plugins_own_stays_what_it_is(plugin_host: Any) -> None:
    def declare() -> Any:
        yield dict(1)  # type: ignore[call-overload]

    assert "newer maxserve" not in refusal(plugin_host, hooks(samplers=declare))


def test_one_object_under_two_names(plugin_folder: Any, plugin_host: Any) -> None:
    scheduler_plugin(plugin_folder, "acme_llm", "acme")
    plugin_folder.module("acme_alias", "import acme_llm as plugin")
    assert "is the same object as plugin 'acme_llm'" in refusal(plugin_host, "acme_llm", "acme_alias:plugin")


def test_two_plugins_with_one_name_of_a_component(plugin_folder: Any, plugin_host: Any) -> None:
    one, two = (scheduler_plugin(plugin_folder, module, "acme") for module in ("acme_one", "acme_two"))
    assert "choose with --prefer scheduler:acme=acme_one" in refusal(plugin_host, one, two)
    host = plugin_host(one, two, prefer=("scheduler:acme=acme_two",))
    assert host.schedulers.get("acme").plugin == "acme_two"


def test_workers_take_preferences_for_kinds_that_they_do_not_have(plugin_host: Any) -> None:
    host = plugin_host(prefer=("middleware:access=builtin.middleware", "tool_parser:hermes=builtin.parsers"))
    PluginHost.from_manifest(host.manifest())


def test_bad_preference(plugin_host: Any) -> None:
    assert "must read KIND:NAME=PLUGIN" in refusal(plugin_host, prefer=("continuous",))


def test_leaving_a_built_in_out(plugin_host: Any) -> None:
    host = plugin_host(no_plugin=("builtin.schedulers",))
    assert host.schedulers.names() == ()


@dataclass(frozen=True, slots=True)
class Heat:
    temperature: float = 1.0


@dataclass(frozen=True, slots=True)
class Chill:
    chill: float = 1.0


def test_request_fields_of_one_name(plugin_host: Any) -> None:
    plugin = hooks(samplers=lambda: [Sampler(name="heat", params=Heat, build="x:y")])
    text = refusal(plugin_host, plugin)
    assert "request field 'temperature' is declared by sampler 'heat' of plugin" in text
    assert "sampler 'temperature' of plugin 'builtin.samplers'" in text
    assert "--no-plugin builtin.samplers" in text


def test_request_fields_by_sampler(plugin_host: Any) -> None:
    plugin = hooks(samplers=lambda: [Sampler(name="chill", params=Chill, build="x:y")])
    fields = plugin_host(plugin).request_fields()
    assert fields["chill"].name == "chill"
    assert fields["temperature"].plugin == "builtin.samplers"


@pytest.mark.parametrize("params", [dict, "json:loads", "json:nothing"])
def test_request_fields_that_are_no_dataclass(plugin_host: Any, params: Any) -> None:
    plugin = hooks(samplers=lambda: [Sampler(name="x", params=params, build="x:y")])
    assert "sampler 'x'" in refusal(plugin_host, plugin)


def test_build_calls_the_reference_with_the_context(plugin_folder: Any, plugin_host: Any) -> None:
    host = plugin_host(scheduler_plugin(plugin_folder, "acme_llm", "acme"))
    assert host.build(host.schedulers.get("acme"), "context").context == "context"


def test_build_that_cannot_be_loaded(plugin_folder: Any, plugin_host: Any) -> None:
    plugin_folder.module("acme_llm", SCHEDULER.format(module="acme_missing", name="acme"))
    host = plugin_host("acme_llm")
    with pytest.raises(PluginError) as error:
        host.build(host.schedulers.get("acme"), None)
    path = plugin_folder.path / "acme_llm.py"
    assert str(error.value) == (
        f"plugin 'acme_llm' ({path}): scheduler 'acme': cannot load 'acme_missing:build': "
        "ModuleNotFoundError: No module named 'acme_missing'"
    )


def test_build_that_fails(plugin_host: Any) -> None:
    def build(context: Any) -> Any:
        raise ValueError("no memory left\nat all")

    host = plugin_host(hooks(schedulers=lambda: [Scheduler(name="acme", build=build)]))
    with pytest.raises(
        PluginError, match=r"scheduler 'acme': .*build' cannot build it: ValueError: no memory left at all"
    ):
        host.build(host.schedulers.get("acme"), None)


def test_our_own_errors_pass_a_build_unchanged(plugin_host: Any) -> None:
    def build(context: Any) -> Any:
        raise ModelError("the model is too large")

    host = plugin_host(hooks(schedulers=lambda: [Scheduler(name="acme", build=build)]))
    with pytest.raises(ModelError, match=r"^the model is too large$"):
        host.build(host.schedulers.get("acme"), None)


def test_manifest_travels_as_message_and_makes_an_equal_host(
    plugin_folder: Any, plugin_host: Any, spawned: Any, tmp_path: Any
) -> None:
    plugin_folder.distribution("acme-llm", "1.2", {"acme": "acme_llm"})
    scheduler_plugin(plugin_folder, "acme_llm", "acme")
    scheduler_plugin(plugin_folder, "beta.plugin", "beta")
    models = tmp_path / "models"
    models.mkdir()
    (models / "my_arch.py").write_text(
        "from maxserve import Architecture\n"
        "ARCHITECTURES = [Architecture(name='LlamaForCausalLM', build=lambda config: config)]\n"
    )
    host = plugin_host(
        "beta.plugin",
        autoload=True,
        allow=("acme",),
        no_plugin=("builtin.demo",),
        custom_architectures=(f"{models}:my_arch",),
    )
    manifest = msgspec.msgpack.decode(msgspec.msgpack.encode(host.manifest()), type=Manifest)
    assert manifest == host.manifest()
    assert {source.name for source in manifest.sources} >= {"acme", "beta.plugin", "my_arch"}
    assert "builtin.demo" not in {source.name for source in manifest.sources}
    with pytest.MonkeyPatch.context() as patch:  # the worker's environment knows of no folder but through the manifest
        patch.setenv("PYTHONPATH", str(plugin_folder.path), prepend=os.pathsep)
        assert spawned(host) == host.fingerprint


def test_worker_does_not_discover_again(plugin_folder: Any, plugin_host: Any) -> None:
    host = plugin_host()
    scheduler_plugin(plugin_folder, "acme_late", "late")
    plugin_folder.distribution("acme-late", "1.0", {"late": "acme_late"})
    worker = PluginHost.from_manifest(host.manifest())
    assert "late" not in worker.schedulers
    assert worker.fingerprint == host.fingerprint


def test_worker_has_neither_routes_nor_observers(plugin_host: Any) -> None:
    worker = PluginHost.from_manifest(plugin_host().manifest())
    assert len(worker.routes) == 0
    assert len(worker.observers) == 0


def test_difference_between_server_and_worker_is_named(plugin_host: Any) -> None:
    count = iter(range(2))
    plugin = hooks(schedulers=lambda: [Scheduler(name=f"acme-{next(count)}", build="x:y")])
    host = plugin_host(plugin)
    with pytest.raises(
        PluginError, match="server and worker see different plugins: the worker lacks 'scheduler acme-0"
    ):
        PluginHost.from_manifest(host.manifest())


def test_fingerprint_changes_with_what_is_declared(plugin_folder: Any, plugin_host: Any) -> None:
    plain = plugin_host().fingerprint
    assert plugin_host().fingerprint == plain
    assert plugin_host(scheduler_plugin(plugin_folder, "acme_llm", "acme")).fingerprint != plain
    assert plugin_host(no_plugin=("builtin.samplers",)).fingerprint != plain


@dataclass(frozen=True, slots=True)
class Config:
    aging: float = 50.0

    def __post_init__(self) -> None:
        if self.aging < 0:
            raise ValueError("aging must not be negative")


def test_settings_of_a_plugin_reach_its_builds(plugin_host: Any) -> None:
    host = plugin_host(hooks(config=lambda: [ConfigSection(name="shortest-first", schema=Config)]))
    sections = host.plugin_sections()
    assert ("shortest-first", Config) in [(section.name, section.schema) for section in sections]
    settings = resolve({"shortest_first__aging": 80.0}, environ={}, sections=sections)
    context = Context(sections=host.section_values(settings))
    assert context.config(Config) == Config(aging=80.0)


def test_schema_that_cannot_be_imported_stops_a_strict_host(plugin_host: Any) -> None:
    plugin = hooks(config=lambda: [ConfigSection(name="acme", schema="acme_missing:Config")])
    assert "config 'acme': cannot load 'acme_missing:Config'" in refusal(plugin_host, plugin)


def test_schema_that_cannot_be_imported_is_left_out_leniently(plugin_host: Any) -> None:
    plugin = hooks(config=lambda: [ConfigSection(name="acme", schema="acme_missing:Config")])
    host = plugin_host(plugin, strict=False)
    assert "acme" not in [section.name for section in (*host.plugin_sections(), *host.plugin_sections())]
    assert len(host.problems) == 1
    with pytest.raises(PluginError, match="config 'acme': cannot load"):
        host.insist()


QUERY = ModelQuery(progress=NullProgress())


def test_model_source_of_the_last_plugin_is_asked_first(plugin_host: Any) -> None:
    asked: list[str] = []

    def source(name: str, answer: Any) -> Any:
        def maxserve_model_source(ref: str) -> Any:
            asked.append(f"{name} {ref}")
            return answer

        return SimpleNamespace(maxserve_model_source=hookimpl(maxserve_model_source))

    first, second, third = source("first", None), source("second", ModelSource(path="/m")), source("third", None)
    host = plugin_host(first, second, third)
    assert host.model_source("acme/demo", QUERY) == ModelSource(path="/m")
    assert asked == ["third acme/demo", "second acme/demo"]


def test_model_source_that_answers_with_something_else(plugin_host: Any) -> None:
    host = plugin_host(hooks(model_source=lambda ref: "/models/acme"))
    with pytest.raises(PluginError, match=r"returned '/models/acme', of type str; it must give maxserve.ModelSource"):
        host.model_source("acme/demo", QUERY)


def test_no_model_source_knows_the_reference(plugin_host: Any) -> None:
    assert plugin_host().model_source("./not/known", QUERY) is None


def test_a_chat_template_that_is_none(plugin_host: Any) -> None:
    host = plugin_host(hooks(chat_template=lambda context: "{{ messages }}"))
    with pytest.raises(PluginError, match=r"maxserve_chat_template returned a str without the method source"):
        host.chat_template(ChatTemplateContext(path="/nowhere"))


def test_a_tokenizer_that_is_none(plugin_host: Any) -> None:
    host = plugin_host(hooks(tokenizer=lambda context: object()))
    with pytest.raises(PluginError, match=r"maxserve_tokenizer returned a object without the method special_tokens"):
        host.tokenizer(TokenizerContext(path="/nowhere"))


def test_nothing_reads_the_tokenizer(plugin_host: Any) -> None:
    with pytest.raises(ModelError, match=r"^no plugin reads the tokenizer in /nowhere; is the one that does left out"):
        plugin_host(no_plugin=("builtin.tokenizers",)).tokenizer(TokenizerContext(path="/nowhere"))


def test_files_of_a_model_that_are_wrong_are_not_blamed_on_a_plugin(plugin_host: Any, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(ModelError, match=r"^the chat template in .* is not a valid Jinja template: .*--chat-template$"):
        plugin_host().chat_template(ChatTemplateContext(path=str(tmp_path)))


def test_process_start_tells_every_plugin(plugin_host: Any) -> None:
    seen: list[str] = []

    def start(process: ProcessInfo) -> None:
        seen.append(process.kind)
        process.on_exit(lambda: seen.append("ended"))

    process = ProcessInfo(kind="worker")
    plugin_host(hooks(process_start=start)).process_start(process)
    process.exit()
    assert seen == ["worker", "ended"]


def test_process_start_that_raises_names_the_plugin(plugin_host: Any) -> None:
    def start(process: ProcessInfo) -> None:
        raise RuntimeError("no licence")

    host = plugin_host(hooks(process_start=start))
    with pytest.raises(PluginError, match="maxserve_process_start: RuntimeError: no licence"):
        host.process_start(ProcessInfo(kind="server"))


def commands(*names: str) -> Any:
    def maxserve_commands(cli: click.Group) -> None:
        for name in names:
            cli.add_command(click.Command(name))

    return SimpleNamespace(maxserve_commands=hookimpl(maxserve_commands))


def invocation(cli: click.Group) -> Any:
    return SimpleNamespace(cli=cli, environ={})


def test_commands_of_plugins_join_the_group(plugin_host: Any) -> None:
    cli = click.Group("max", commands=[click.Command("own")])
    plugin_host(commands("hello"), commands("bye")).add_commands(cli, invocation(cli))
    built_in = {"serve", "generate", "list", "encode", "plugins", "quantize"}
    assert set(cli.commands) == {"own", "hello", "bye", *built_in}


def test_command_that_replaces_one_of_ours(plugin_host: Any) -> None:
    own = click.Command("own")
    cli = click.Group("max", commands=[own])
    host = plugin_host(commands("hello", "own"), strict=False)
    host.add_commands(cli, invocation(cli))
    assert cli.commands["own"] is own
    assert "hello" not in cli.commands
    assert "replaces the command 'own', which belongs to maxserve itself" in str(host.problems[0])


def test_command_that_replaces_one_of_another_plugin(plugin_host: Any) -> None:
    cli = click.Group("max")
    host = plugin_host(*(commands("hello") for _ in range(2)))
    with pytest.raises(PluginError, match=r"plugin '.*plugin2'.* replaces the command 'hello', .* plugin '.*plugin1'"):
        host.add_commands(cli, invocation(cli))


def test_trace_tells_every_call_with_its_answer(plugin_folder: Any) -> None:
    scheduler_plugin(plugin_folder, "acme_llm", "acme")
    lines: list[str] = []
    PluginHost.discover(PluginOptions(plugin=("acme_llm",), autoload=False), strict=True, trace=lines.append)
    (line,) = [line for line in lines if "[acme_llm]" in line]
    assert line.startswith("maxserve_schedulers [acme_llm] -> [Scheduler(name='acme'")


def test_plugins_for_other_versions_are_listed_and_not_imported(plugin_folder: Any) -> None:
    plugin_folder.module("older_llm", "1 / 0")
    plugin_folder.distribution("older", "0.3", {"older": "older_llm"}, group="maxserve.v0")
    host = PluginHost.discover(PluginOptions(), strict=True)
    (older,) = [plugin for plugin in host.plugins if plugin.name == "older"]
    assert older.status == "off: is for maxserve.v0; this is v1"


def test_a_declared_object_may_be_the_build_itself(plugin_host: Any) -> None:
    host = plugin_host(hooks(architectures=lambda: [Architecture(name="X", build=lambda config: ("model", config))]))
    assert host.build(host.architectures.get("X"), 1) == ("model", 1)
