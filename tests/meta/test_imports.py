"""What may import what, and what stays light."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from maxserve import interfaces
from maxserve.plugins import BUILTINS
from tests.meta.parsed import parsed

HEAVY = {
    "pytest",
    "torch",
    "numpy",
    "transformers",
    "tokenizers",
    "huggingface_hub",
    "safetensors",
    "fastapi",
    "uvicorn",
    "zmq",
}
BARE = ("core", "plugins", "architectures", "samplers")
PLUGINS = ("maxserve.plugins", "maxserve.architectures", "maxserve.samplers")
LIGHT = [
    "maxserve",
    "maxserve.core.hookspecs",
    "maxserve.core.interfaces.errors",
    "maxserve.core.registry.entries",
    "maxserve.core.registry.host",
    "maxserve.core.config",
    "maxserve.plugins.commands.options",
    "maxserve.core.cli.run",
    "maxserve.core.cli.chosen",
    "maxserve.plugins.embeddings.command",
    "maxserve.plugins.commands.generate",
    "maxserve.testing",
    "maxserve.testing.live",
    *(f"maxserve.interfaces.{module.name}" for module in iter_modules(interfaces.__path__)),
    *(module for _, module in BUILTINS),
]


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, `from x import y` also as x.y."""
    for module, name in parsed(file).imports:
        yield module
        if name:
            yield f"{module}.{name}"


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def test_core_imports_no_plugin(packages: dict[str, Path]) -> None:
    guilty = [
        f"{file}: {module}"
        for file in packages["maxserve.core"].rglob("*.py")
        for module in imported(file)
        if within(module, PLUGINS)
    ]
    assert guilty == []


def test_nothing_is_imported_by_a_bare_name(root: Path, sources: list[Path]) -> None:
    """`import core.x` would make a second copy of a module, with classes that differ from the first's."""
    tests = sorted((root / "tests").rglob("*.py"))
    guilty = [f"{file}: {module}" for file in [*sources, *tests] for module in imported(file) if within(module, BARE)]
    assert guilty == []


def test_only_the_kit_knows_pytest(root: Path, sources: list[Path], light_import: Any) -> None:
    """No server and no benchmark needs it; two modules of the kit do without, too."""
    kit = root / "src" / "maxserve" / "testing"
    without = ("maxserve.testing.live", "maxserve.testing.simulation")
    assert not {"pytest", "_pytest"} & light_import(f"import {', '.join(without)}")
    guilty = [
        f"{file}: {module}"
        for file in [*sources, *sorted((root / "benchmarks").rglob("*.py"))]
        if not file.is_relative_to(kit)
        for module in imported(file)
        if within(module, ("pytest", "_pytest", "maxserve.testing")) and not within(module, without)
    ]
    assert guilty == []


def test_only_the_host_asks_pluggy_for_hooks(sources: list[Path], packages: dict[str, Path]) -> None:
    guilty = [str(file) for file in sources if re.search(r"manager\.hook\b", file.read_text(encoding="utf-8"))]
    assert guilty == [str(packages["maxserve.core"] / "registry" / "host.py")]


def test_declarations_and_the_command_line_are_light(light_import: Any) -> None:
    loaded = light_import(f"import {', '.join(LIGHT)}")
    assert set(LIGHT) <= loaded
    if loaded & HEAVY:  # one interpreter for all of them is fast; who is to blame is worth several
        assert [module for module in LIGHT if light_import(f"import {module}") & HEAVY] == []
    assert loaded & HEAVY == set()


def test_a_server_that_has_not_begun_its_worker_is_light(light_import: Any) -> None:
    """It ends here at the addresses of the worker, the last thing before it."""
    serve = ("serve", "--port", "0", "--zmq-endpoint-base", "ipc:///there-is/no-such-folder")
    loaded = light_import("from maxserve.core.cli import main; main()", *serve)
    assert "maxserve.plugins.executors.endpoints" in loaded
    later = {
        "uvloop",
        "starlette",
        "jinja2",
        "PIL",
        "httpx",
        "prometheus_client",
        "llguidance",
    }
    assert loaded & ((HEAVY - {"zmq"}) | later) == set()


def test_the_command_line_can_begin_a_worker_before_all_else(light_import: Any) -> None:
    loaded = light_import("import maxserve.core.cli, maxserve.core.runtime.ahead")
    assert loaded & {*HEAVY, "click", "pluggy", "pydantic", "maxserve.core.hookspecs"} == set()


def test_a_worker_begins_lightly(light_import: Any) -> None:
    """Plugins are found and the settings read before torch is imported, which takes a second of its own."""
    heavy = {"torch", "transformers", "fastapi", "yaml", "click", "jinja2"}
    plugins = ", ".join(module for _, module in BUILTINS)
    assert light_import(f"import maxserve.core.runtime.worker, {plugins}") & heavy == set()


def test_routes_leave_to_requests_what_most_never_need(light_import: Any) -> None:
    routes = ("openai", "anthropic", "kserve", "sagemaker", "admin")
    routers = ", ".join(f"maxserve.plugins.api.{name}.router" for name in routes)
    loaded = light_import(f"import {routers}, maxserve.plugins.lora.router, maxserve.plugins.embeddings.rerank.router")
    assert "fastapi" in loaded
    assert loaded & {"numpy", "PIL", "pydantic.v1", "torch"} == set()


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["list"], ["list", "--json"], ["plugins"]])
def test_commands_that_only_tell_are_light(light_import: Any, argv: list[str]) -> None:
    loaded = light_import("from maxserve.core.cli import main; main()", *argv)
    assert "maxserve.core.registry.host" in loaded
    assert "pydantic" not in loaded
    assert loaded & HEAVY == set()


def test_help_of_serve_is_light(light_import: Any) -> None:
    loaded = light_import("from maxserve.core.cli import main; main()", "serve", "--help")
    assert "maxserve.plugins.commands.options" in loaded
    assert loaded & HEAVY == set()
