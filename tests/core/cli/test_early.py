from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from maxserve.core.cli.early import plugin_options, read_plugin_options, typed_options, wants_debug
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.registry.options import PluginOptions


@pytest.fixture(autouse=True)
def _without_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_said_means_the_defaults() -> None:
    assert read_plugin_options(["serve", "--port", "8000"], {"PATH": "/bin"}) == PluginOptions()


@pytest.mark.parametrize(
    "argv",
    [
        ["serve", "--plugin", "a", "--plugin=b", "--no-plugin", "c"],
        ["--plugin", "a", "serve", "--no-plugin=c", "--plugin", "b"],
        ["--no-plugin", "c", "--plugin=a", "--plugin", "b", "list"],
    ],
)
def test_options_count_wherever_they_stand(argv: list[str]) -> None:
    found = read_plugin_options(argv, {})
    assert (found.plugin, found.no_plugin) == (("a", "b"), ("c",))


def test_several_names_with_commas() -> None:
    assert read_plugin_options(["--no-plugin", "a,b", "--no-plugin", "c"], {}).no_plugin == ("a", "b", "c")


def test_all_four_options() -> None:
    argv = ["--plugin", "p", "--no-plugin", "n", "--prefer", "scheduler:x=y", "--custom-architectures", "./d:m"]
    assert read_plugin_options(argv, {}) == PluginOptions(
        plugin=("p",), no_plugin=("n",), prefer=("scheduler:x=y",), custom_architectures=("./d:m",)
    )


def test_words_after_two_dashes_are_no_options() -> None:
    assert typed_options(["mycommand", "--plugin", "a", "--", "--plugin", "b"]) == {"plugin": ("a",)}


def test_an_option_without_its_value_is_left_to_click() -> None:
    assert typed_options(["serve", "--plugin"]) == {"plugin": ("",)}


def test_environment_forms() -> None:
    environ = {
        "MAX_SERVE_PLUGIN": "a,b",
        "MAX_SERVE_NO_PLUGIN": "c",
        "MAX_SERVE_PREFER": "scheduler:x=y",
        "MAX_SERVE_CUSTOM_ARCHITECTURES": "./d:m",
    }
    assert read_plugin_options(["list"], environ) == PluginOptions(
        plugin=("a", "b"), no_plugin=("c",), prefer=("scheduler:x=y",), custom_architectures=("./d:m",)
    )


def test_typed_goes_before_environment() -> None:
    assert read_plugin_options(["--plugin", "typed"], {"MAX_SERVE_PLUGIN": "environment"}).plugin == ("typed",)


def test_a_settings_file_may_choose_plugins(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("plugin: [from_file]\nmax_length: 12\nwhatever_a_plugin_calls_its_section:\n  x: 1\n")
    assert read_plugin_options(["serve", "--config-file", str(file)], {}).plugin == ("from_file",)
    assert read_plugin_options(["serve", f"--config-file={file}", "--plugin", "typed"], {}).plugin == ("typed",)


def test_dotenv_may_choose_plugins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MAX_SERVE_NO_PLUGIN=from_dotenv\n")
    assert read_plugin_options([], {"PATH": "/bin"}).no_plugin == ("from_dotenv",)


def test_disabled_plugins_join_those_left_out() -> None:
    found = read_plugin_options(["--no-plugin", "a"], {"MAX_SERVE_DISABLE_PLUGINS": "b, c,"})
    assert found.no_plugin == ("a", "b", "c")


@pytest.mark.parametrize(("text", "on"), [("0", False), ("off", False), ("False", False), ("1", True), ("", True)])
def test_autoload(text: str, on: bool) -> None:
    assert read_plugin_options([], {"MAX_SERVE_PLUGIN_AUTOLOAD": text}).autoload is on


@pytest.mark.parametrize(("text", "allowed"), [("a,b", ("a", "b")), ("", ())])
def test_allow(text: str, allowed: tuple[str, ...]) -> None:
    assert read_plugin_options([], {"MAX_SERVE_PLUGIN_ALLOW": text}).allow == allowed


def test_errors_as_warnings() -> None:
    assert read_plugin_options([], {"MAX_SERVE_PLUGIN_ERRORS": "warn"}).tolerant
    assert not read_plugin_options([], {"MAX_SERVE_PLUGIN_ERRORS": "strict"}).tolerant


@pytest.mark.parametrize("name", ["MAX_SERVE_PLUGIN_AUTOLOAD", "MAX_SERVE_PLUGIN_ERRORS"])
def test_values_that_mean_nothing(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=maybe: must be"):
        read_plugin_options([], {name: "maybe"})


def test_debug() -> None:
    assert wants_debug(["serve", "--debug"], {})
    assert wants_debug([], {"MAX_SERVE_DEBUG": "1"})
    assert not wants_debug(["serve"], {"MAX_SERVE_DEBUG": "0"})


def test_click_knows_every_option_that_is_read_early() -> None:
    known: set[Any] = {flag for option in plugin_options() if isinstance(option, click.Option) for flag in option.opts}
    assert known == {"--plugin", "--no-plugin", "--prefer", "--custom-architectures", "--debug"}
