"""The walls of the house: who imports whom, and where a kind of plugin is added."""

from __future__ import annotations

import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from maxserve.core import hookspecs
from maxserve.core.registry.kinds import KINDS
from tests.meta.parsed import parsed

ROOT = Path(__file__).parents[2]
PUBLIC = ("maxserve.interfaces", "maxserve.layers", "maxserve.http", "maxserve.text", "maxserve.loading")
PUBLIC_TOO = ("maxserve.config", "maxserve.registry", "maxserve.runtime", "maxserve.options", "maxserve.weights")
OF_PLUGINS = ("maxserve.speculation", "maxserve.quantization", "maxserve.scheduling", "maxserve.vision")
OF_PLUGINS += ("maxserve.adapters", "maxserve.memory")
OWN = {"plugins": "maxserve.plugins", "architectures": "maxserve.architectures", "samplers": "maxserve.samplers"}
NOT_KINDS = {  # hooks that declare nothing with a registry of its own
    "maxserve_config",
    "maxserve_commands",
    "maxserve_process_start",
    "maxserve_cache_built",
    "maxserve_engine_built",
    "maxserve_model_source",
    "maxserve_chat_template",
    "maxserve_tokenizer",
}


@pytest.fixture(scope="module")
def modules(packages: dict[str, Path]) -> dict[str, Path]:
    """Every module that ships, by its name."""
    found: dict[str, Path] = {}
    for package, folder in packages.items():
        for file in folder.rglob("*.py"):
            parts = (package, *file.relative_to(folder).with_suffix("").parts)
            found.setdefault(".".join(parts).removesuffix(".__init__"), file)
    return found


def imports(file: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports, for types as well."""
    for module, name in parsed(file).imports:
        inner = f"{module}.{name}"
        yield inner if inner in modules else module


def test_no_import_goes_in_a_circle(modules: dict[str, Path]) -> None:
    graph = {name: {each for each in imports(file, modules) if each != name} for name, file in modules.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def _public(module: str, allowed: tuple[str, ...]) -> bool:
    return module == "maxserve" or any(module == each or module.startswith(f"{each}.") for each in allowed)


def test_plugins_import_public_names_only(modules: dict[str, Path]) -> None:
    """What a built-in may import a stranger may, too; a plugin's own folder and other plugins' are its business."""
    guilty = [
        f"{name}: {module}"
        for name, file in modules.items()
        if name.split(".")[1:2] and name.split(".")[1] in OWN
        for module in imports(file, modules)
        if module.startswith("maxserve") and not _public(module, (*PUBLIC, *PUBLIC_TOO, *OF_PLUGINS, *OWN.values()))
    ]
    assert guilty == []


def test_plugins_use_of_others_what_the_page_lists(modules: dict[str, Path]) -> None:
    section = (ROOT / "docs/structure.md").read_text(encoding="utf-8").partition("## What plugins use of each other")[2]
    listed = tuple(re.findall(r"`(maxserve\.plugins\.[a-z_.]+)`", section))
    used = {
        (name, module)
        for name, file in modules.items()
        if name.startswith("maxserve.plugins.")
        for module in imports(file, modules)
        if module.startswith("maxserve.plugins.") and module.split(".")[2] != name.split(".")[2]
    }
    assert listed
    assert sorted(f"{name}: {module}" for name, module in used if not _public(module, listed)) == []


def test_interfaces_know_no_host_and_no_settings(modules: dict[str, Path]) -> None:
    """What a plugin sees is declared beside what it is given: data and Protocols, for types as well."""
    parts = ("cli", "config", "engine", "loading", "registry", "runtime", "text")
    hidden = tuple(f"maxserve.core.{part}" for part in parts)
    guilty = [
        f"{name}: {module}"
        for name, file in modules.items()
        if name.startswith("maxserve.core.interfaces.")
        for module in imports(file, modules)
        if module.startswith(hidden)
    ]
    assert guilty == []


def test_the_step_loop_knows_no_settings_no_plugins_and_no_files(modules: dict[str, Path]) -> None:
    """What an engine is put together from is found in `core/assembly/`; the loop is given it."""
    guilty = [
        f"{name}: {module}"
        for name, file in modules.items()
        if name.startswith("maxserve.core.engine.")
        for module in imports(file, modules)
        if module.startswith("maxserve") and not _public(module, ("maxserve.core.engine", "maxserve.core.interfaces"))
    ]
    assert guilty == []


def test_a_kind_is_a_hook_and_a_line_in_the_table() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("maxserve_")}
    assert {kind.hook for kind in KINDS} == hooks - NOT_KINDS
    assert len({kind.name for kind in KINDS}) == len(KINDS)
