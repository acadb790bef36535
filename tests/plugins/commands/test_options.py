from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from maxserve.core.config import PluginSection, Settings, resolve
from maxserve.core.config.catalog import catalog
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.commands.options import (
    GroupedCommand,
    SettingOption,
    engine_options,
    serve_options,
)
from maxserve.testing.sections import built_in_sections

SPEC: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "core" / "config" / "options.json").read_text()
)

SHARED = [each for each in built_in_sections() if each.within]  # flat options of plugins that come with maxserve


def command(taken: dict[str, Any], sections: tuple[PluginSection, ...] = ()) -> click.Command:
    return GroupedCommand(
        "serve", params=list(serve_options((*SHARED, *sections))), callback=lambda **typed: taken.update(typed)
    )


def typed(*arguments: str, sections: tuple[PluginSection, ...] = ()) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    result = CliRunner().invoke(command(taken, sections), list(arguments))
    assert result.exit_code == 0, result.output
    return taken


def by_flag() -> dict[str, click.Option]:
    return {flag: option for option in serve_options(SHARED) for flag in option.opts}


def test_the_list_has_all_85_options() -> None:
    assert len(SPEC) == 85


@pytest.mark.parametrize("name", SPEC)
def test_every_option_exists_with_its_kind_and_flags(name: str) -> None:
    option, spec = by_flag()[f"--{name}"], SPEC[name]
    assert option.is_flag != spec["value"]
    assert option.secondary_opts == ([f"--no-{name}"] if spec.get("off") else [])


@pytest.mark.parametrize(
    ("name", "choice"), [(name, choice) for name, spec in SPEC.items() for choice in spec.get("choices", ())]
)
def test_every_choice_is_taken_by_class_name_and_by_name(name: str, choice: str) -> None:
    option, member = by_flag()[f"--{name}"], choice.partition(".")[2]
    full = option.type.convert(choice, option, None)
    spellings = (member, member.lower(), member.upper(), choice.upper(), full)
    assert {option.type.convert(spelling, option, None) for spelling in spellings} == {full}
    assert full.replace("_", "").lower() == member.replace("_", "").lower()


def test_nothing_typed_is_nothing_chosen() -> None:
    assert resolve(typed(), environ={}) == Settings()


def test_every_option_is_a_setting_and_reaches_it() -> None:
    names = {option.name for option in serve_options(SHARED)}
    assert names == set(catalog(SHARED).by_name())
    given = typed("--model", "m", "--weight-path", "a", "--weight-path", "b", "--no-enable-echo", "--headless")
    settings = resolve(given, environ={}, sections=SHARED)
    assert settings.model.model_path == "m"
    assert settings.model.weight_path == ("a", "b")
    assert settings.plugins.sections["echo"] == {"enable_echo": False}
    assert settings.server.headless
    assert len(settings.chosen) == 4


@pytest.mark.parametrize("name", [name for name, spec in SPEC.items() if not spec["value"]])
def test_switches_are_unset_on_or_off(name: str) -> None:
    key = name.replace("-", "_")
    assert typed()[key] is None
    assert typed(f"--{name}")[key] is True
    if SPEC[name].get("off"):
        assert typed(f"--no-{name}")[key] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-length", "long"],
        ["--devices", "tpu"],
        ["--pipeline-role", "none"],
        ["--vision-config-overrides", "{bad"],
        ["--kvcache-ce-watermark", "half"],
        ["--task", "poetry"],
        ["--no-such-option"],
    ],
)
def test_a_wrong_type_is_a_usage_error(arguments: list[str]) -> None:
    result = CliRunner().invoke(command({}), arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output


def test_help_names_every_option_with_its_true_default() -> None:
    text = CliRunner().invoke(command({}), ["--help", "all"], terminal_width=200).output
    for option in serve_options(SHARED):
        assert all(flag in text for flag in (*option.opts, *option.secondary_opts))
    words = " ".join(text.split())
    assert "[default: 8192]" in words
    assert "[default: 127.0.0.1]" in words
    assert "[repeatable]" in words
    assert "not supported yet" in words
    for title in ("Model:", "KV cache:", "Scheduling:", "Server:", "Plugins:", "Options:"):
        assert f"\n{title}\n" in text
    assert text.index("\nNot supported yet:\n") > text.index("\nPlugins:\n"), "what is not there comes last"


def test_the_first_page_of_help_is_short() -> None:
    text = CliRunner().invoke(command({}), ["--help"], terminal_width=110).output
    assert len(text.splitlines()) < 80
    for flag in ("--model-path", "--host", "--port", "--api-key", "--max-length", "--config-file"):
        assert flag in text
    assert "--enable-lora" not in text
    pages = {option.page for option in serve_options(SHARED) if isinstance(option, SettingOption)}
    for page in pages:
        assert f"\n  {page} " in text


def test_every_option_is_on_the_page_of_its_section() -> None:
    for option in serve_options(SHARED):
        assert isinstance(option, SettingOption)
        result = CliRunner().invoke(command({}), ["--help", option.page], terminal_width=200)
        assert result.exit_code == 0
        assert option.opts[0] in result.output
    asked = CliRunner().invoke(command({}), ["-h", "KV_Cache"], terminal_width=200).output
    assert "--cache-strategy" in asked
    assert "--port" not in asked
    assert CliRunner().invoke(command({}), ["-h", "cache-strategy"], terminal_width=200).output == asked


def test_help_finds_options_by_a_part_of_their_names() -> None:
    result = CliRunner().invoke(command({}), ["--help", "max-batch"], terminal_width=200)
    assert result.exit_code == 0
    assert "--max-batch-size" in result.output
    assert "--max-batch-input-tokens" in result.output
    assert "--port" not in result.output


def test_a_page_that_is_not_there() -> None:
    result = CliRunner().invoke(command({}), ["--help", "lorra"])
    assert result.exit_code == 2
    assert "no section or option has that name (did you mean 'lora'?)" in result.output


def completed(incomplete: str, *before: str, obj: Any = None) -> list[str]:
    completion = ShellComplete(command({}), {"obj": obj}, "serve", "_SERVE_COMPLETE")
    return [item.value for item in completion.get_completions(list(before), incomplete)]


def test_values_are_completed() -> None:
    assert completed("", "--kv-cache-format") == ["bfloat16", "float32", "float8_e4m3fn", "int8"]
    assert completed("b", "--kv-cache-format") == ["bfloat16"]
    assert "--max-length" in completed("--max-l")
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    assert completed("", "--scheduler", obj=host) == ["continuous", "fair", "tts"]
    assert completed("pa", "--cache-strategy", obj=host) == ["paged"]
    assert completed("her", "--tool-parser", obj=host) == ["hermes"]


def test_registries_of_completion_are_there() -> None:
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    registries = {option.marker.registry for option in catalog(built_in_sections())} - {""}
    assert registries >= {"schedulers", "cache_strategies", "grammar_backends", "tool_parsers", "executors"}
    assert all(getattr(host, name).names() for name in registries - {"speculators"}), "none of these is shipped"


def test_engine_options_are_those_without_the_server() -> None:
    names = {option.name for option in engine_options(SHARED)}
    assert {"model_path", "model", "max_length", "plugin", "config_file", "debug"} <= names
    assert names.isdisjoint({"host", "port", "headless", "served_model_name", "max_queue_size", "enable_routes"})
    assert names < {option.name for option in serve_options(SHARED)}


def test_plugin_options_are_typed_and_grouped(section: PluginSection) -> None:
    given = typed(
        "--shortest-first.aging", "80", "--no-shortest-first.strict", "--shortest-first.names", "a", sections=(section,)
    )
    assert given["shortest_first__aging"] == 80.0
    assert given["shortest_first__strict"] is False
    assert given["shortest_first__names"] == ("a",)
    wrong = CliRunner().invoke(command({}, (section,)), ["--shortest-first.mode", "medium"])
    assert wrong.exit_code == 2
    assert "expected one of soft, hard" in wrong.output
    assert "\nPlugin acme:\n" in CliRunner().invoke(command({}, (section,)), ["--help", "shortest-first"]).output
