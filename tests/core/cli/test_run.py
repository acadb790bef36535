"""The group: which command runs, how strictly, and how errors end."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import EngineError, ModelError, RequestError

COMMAND = """
import click
from maxserve import hookimpl
from maxserve.interfaces import errors

@hookimpl
def maxserve_commands(cli):
    @cli.command()
    @click.argument("name")
    def fail(name):
        raise getattr(errors, name, ValueError)("so it is")

    @cli.command()
    @click.pass_context
    def leave(ctx):
        ctx.exit(7)
"""


@pytest.fixture(autouse=True)
def _without_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing(plugin_folder: Any) -> str:
    """A plugin whose command raises what it is told to."""
    plugin_folder.module("acme_fail", COMMAND)
    return "acme_fail"


def test_help_names_every_command(max_cli: Any) -> None:
    ran = max_cli("--help")
    assert ran.status == 0
    for command in ("serve", "generate", "list", "plugins", "quantize"):
        assert f"  {command} " in ran.out


def test_version(max_cli: Any) -> None:
    from importlib.metadata import version

    ran = max_cli("--version")
    assert (ran.status, ran.out) == (0, f"maxserve {version('maxserve')}\n")


def test_unknown_command(max_cli: Any) -> None:
    ran = max_cli("srve")
    assert ran.status == 2
    assert ran.err == (
        "Error: there is no command 'srve' (did you mean 'serve'?); "
        "the commands are: encode, generate, list, plugins, quantize, serve\n"
    )


def test_unknown_option(max_cli: Any) -> None:
    assert max_cli("--plugins", "x").status == 2
    assert max_cli("serve", "--prot", "1").status == 2
    assert max_cli("list", "--jsn").status == 2


def test_wrong_words_are_one_line(max_cli: Any) -> None:
    for argv in (
        ["serve", "--port", "x"],
        ["serve", "--prot", "1"],
        ["serve", "a-model", "extra"],
        ["--log-level", "loud", "list"],
    ):
        ran = max_cli(*argv)
        assert ran.status == 2
        assert ran.err.startswith("Error: ")
        assert ran.err.count("\n") == 1
        assert "--help" in ran.err


def test_no_command_shows_help(max_cli: Any) -> None:
    ran = max_cli()
    assert ran.status == 2
    assert "Usage: max" in ran.err


@pytest.mark.parametrize("command", ["serve", "generate"])
def test_commands_that_start_an_engine_are_strict(max_cli: Any, plugin_folder: Any, command: str) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    ran = max_cli(command, "--plugin", "acme_bad", "--no-such-option")
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert ran.err.startswith(
        "Error: plugin 'acme_bad' (--plugin acme_bad): cannot import 'acme_bad': ZeroDivisionError"
    )


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["list"], ["plugins"], ["serve", "--help"]])
def test_commands_that_tell_are_lenient(max_cli: Any, plugin_folder: Any, argv: list[str]) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    assert max_cli(*argv, "--plugin", "acme_bad").status == 0


def test_debug_shows_where_a_plugin_failed(max_cli: Any, plugin_folder: Any) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    ran = max_cli("serve", "--plugin", "acme_bad", "--debug")
    assert ran.status == 2
    assert "Traceback" in ran.err
    assert "acme_bad.py" in ran.err
    assert ran.err.splitlines()[-1].startswith("Error: plugin 'acme_bad'")


@pytest.mark.parametrize(
    "spec", ["/no/such/directory:x", "no_such_module_anywhere", "a:b:c", "json", "./:os", "/no/such/directory/x"]
)
def test_custom_architectures_fail_on_one_line(max_cli: Any, spec: str) -> None:
    ran = max_cli("serve", "--custom-architectures", spec)
    assert ran.status == 2
    assert ran.err.count("\n") == 1
    assert spec.split(":")[-1].split("/")[-1] in ran.err


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MAX_SERVE_DISABLE_PLUGINS": "builtin.cach"}, "did you mean 'builtin.cache'?"),
        ({"MAX_SERVE_PLUGIN_ALLOW": "absent"}, "MAX_SERVE_PLUGIN_ALLOW: no plugin is called 'absent'"),
        ({"MAX_SERVE_PREFER": "nonsense"}, "must read KIND:NAME=PLUGIN"),
        ({"MAX_SERVE_PLUGIN_ERRORS": "maybe"}, "must be warn or strict"),
    ],
)
def test_wrong_environment(max_cli: Any, environ: dict[str, str], message: str) -> None:
    ran = max_cli("serve", environ=environ)
    assert ran.status == 2
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert max_cli("--help", environ=environ).status == 0


@pytest.mark.parametrize(("error", "status"), [(ModelError, 2), (RequestError, 2), (EngineError, 1), (ValueError, 1)])
def test_errors_of_a_command_are_one_line(max_cli: Any, failing: str, error: type[Exception], status: int) -> None:
    ran = max_cli("--plugin", failing, "fail", error.__name__)
    assert ran.status == status
    expected = "Error: ValueError: so it is (--debug shows where)\n" if error is ValueError else "Error: so it is\n"
    assert ran.err == expected


def test_debug_shows_where_a_command_failed(max_cli: Any, failing: str) -> None:
    ran = max_cli("--debug", "--plugin", failing, "fail", "ValueError")
    assert ran.status == 1
    assert "Traceback" in ran.err
    assert ran.err.endswith("Error: ValueError: so it is\n")


def test_status_of_a_command_is_that_of_the_run(max_cli: Any, failing: str) -> None:
    assert max_cli("--plugin", failing, "leave").status == 7


@pytest.mark.parametrize(("words", "level"), [((), logging.INFO), (("--log-level", "WARNING"), logging.WARNING)])
def test_log_level(max_cli: Any, words: tuple[str, ...], level: int) -> None:
    max_cli(*words, "list")
    assert logging.getLogger().level == level


def test_unknown_log_level(max_cli: Any) -> None:
    ran = max_cli("--log-level", "loud", "list")
    assert ran.status == 2
    assert "'debug', 'info', 'warning', 'error'" in ran.err


def test_python_m_is_the_same() -> None:
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "maxserve", "lst"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: there is no command 'lst' (did you mean 'list'?)")
