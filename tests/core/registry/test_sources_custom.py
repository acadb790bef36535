"""Every way to name a custom architecture, and every way in which that can fail: one readable line each."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import PluginError

ACME = """
from maxserve import Architecture
ARCHITECTURES = [Architecture(name="AcmeForCausalLM", build="acme.model:Model")]
"""


@pytest.fixture
def write(tmp_path: Path, plugin_folder: Any) -> Callable[[str, str], Path]:
    """Writes files into a folder that is not on sys.path."""

    def write(name: str, text: str) -> Path:
        file = tmp_path / "models" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        importlib.invalidate_caches()
        return tmp_path / "models"

    return write


def error(plugin_host: Any, *specs: str) -> str:
    with pytest.raises(PluginError) as raised:
        plugin_host(custom_architectures=specs)
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith("--custom-architectures ")
    return text


def test_folder_and_module_in_either_spelling(write: Any, plugin_host: Any) -> None:
    folder = write("acme_arch.py", ACME)
    for spec in (f"{folder}/acme_arch", f"{folder}:acme_arch", f"{folder}/acme_arch.py"):
        host = plugin_host(custom_architectures=(spec,))
        entry = host.architectures.get("AcmeForCausalLM")
        assert entry.plugin == "acme_arch"
        assert entry.path == str((folder / "acme_arch.py").resolve())


def test_package(write: Any, plugin_host: Any) -> None:
    folder = write("acme_pkg/__init__.py", "from acme_pkg.arch import ARCHITECTURES")
    write("acme_pkg/arch.py", ACME)
    for spec in (f"{folder}/acme_pkg", f"{folder}/acme_pkg/"):
        assert "AcmeForCausalLM" in plugin_host(custom_architectures=(spec,)).architectures


def test_installed_module_by_name(plugin_folder: Any, plugin_host: Any) -> None:
    plugin_folder.module("installed.acme_arch", ACME)
    host = plugin_host(custom_architectures=("installed.acme_arch",))
    assert host.architectures.get("AcmeForCausalLM").plugin == "installed.acme_arch"


def test_module_beside_the_operator(write: Any, plugin_host: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write("acme_here.py", ACME))
    for spec in ("acme_here", "./acme_here", ".:acme_here", ":acme_here"):
        host = plugin_host(custom_architectures=(spec,))
        source = next(plugin.source for plugin in host.plugins if plugin.name == "acme_here")
        assert Path(source.folder).is_absolute() or not source.folder


def test_commas(write: Any, plugin_host: Any) -> None:
    folder = write("acme_one.py", ACME)
    write("acme_two.py", ACME.replace("Acme", "Beta"))
    host = plugin_host(custom_architectures=(f"{folder}:acme_one,{folder}:acme_two",))
    assert {"AcmeForCausalLM", "BetaForCausalLM"} <= set(host.architectures.names())


def test_hooks_without_a_list_are_enough(write: Any, plugin_host: Any) -> None:
    text = """
from maxserve import Scheduler, hookimpl
@hookimpl
def maxserve_schedulers():
    yield Scheduler(name="acme", build="acme:build")
"""
    folder = write("acme_hooks.py", text)
    assert "acme" in plugin_host(custom_architectures=(f"{folder}:acme_hooks",)).schedulers


def test_list_that_a_hook_gives_as_well_counts_once(write: Any, plugin_host: Any) -> None:
    text = ACME + "from maxserve import hookimpl\n@hookimpl\ndef maxserve_architectures():\n    return ARCHITECTURES\n"
    folder = write("acme_both.py", text)
    host = plugin_host(custom_architectures=(f"{folder}:acme_both",))
    assert "AcmeForCausalLM" in host.architectures


def test_missing_directory(plugin_host: Any) -> None:
    assert "there is no directory './nowhere'" in error(plugin_host, "./nowhere:acme")


def test_import_error(write: Any, plugin_host: Any) -> None:
    folder = write("acme_bad.py", "import does_not_exist_anywhere")
    text = error(plugin_host, f"{folder}:acme_bad")
    assert "cannot import 'acme_bad': ModuleNotFoundError: No module named 'does_not_exist_anywhere'" in text


def test_syntax_error(write: Any, plugin_host: Any) -> None:
    folder = write("acme_syntax.py", "def (")
    assert "SyntaxError: invalid syntax (acme_syntax.py, line 1)" in error(plugin_host, f"{folder}:acme_syntax")


def test_module_that_ends_the_process(write: Any, plugin_host: Any) -> None:
    folder = write("acme_exit.py", "raise SystemExit(3)")
    assert "SystemExit: 3" in error(plugin_host, f"{folder}:acme_exit")


def test_module_that_is_not_there(write: Any, plugin_host: Any) -> None:
    folder = write("other.py", "")
    assert "No module named 'acme_missing'" in error(plugin_host, f"{folder}:acme_missing")
    assert "No module named 'acme_missing'" in error(plugin_host, "acme_missing")


def test_no_list(write: Any, plugin_host: Any) -> None:
    folder = write("acme_none.py", "x = 1")
    with pytest.raises(PluginError, match="there is no ARCHITECTURES list, and no function is marked @hookimpl"):
        plugin_host(custom_architectures=(f"{folder}:acme_none",))


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("[]", "ARCHITECTURES is empty"),
        ("()", "ARCHITECTURES is empty"),
        ("None", "must be a list of Architecture, not NoneType"),
        ("'AcmeForCausalLM'", "must be a list of Architecture, not str"),
        ("['AcmeForCausalLM']", "holds 'AcmeForCausalLM', which is no maxserve.Architecture"),
    ],
)
def test_list_of_something_else(write: Any, plugin_host: Any, listed: str, message: str) -> None:
    folder = write("acme_wrong.py", f"ARCHITECTURES = {listed}")
    assert message in error(plugin_host, f"{folder}:acme_wrong")


def test_unknown_field_needs_a_newer_maxserve(write: Any, plugin_host: Any) -> None:
    folder = write("acme_new.py", ACME.replace("build=", "quantum=True, build="))
    text = error(plugin_host, f"{folder}:acme_new")
    assert "Architecture has no field 'quantum'" in text
    assert "needs a newer maxserve" in text


def test_unknown_name_needs_a_newer_maxserve(write: Any, plugin_host: Any) -> None:
    folder = write("acme_newest.py", "from maxserve import Telepath")
    text = error(plugin_host, f"{folder}:acme_newest")
    assert "there is no maxserve.Telepath in this maxserve" in text
    assert "needs a newer maxserve" in text


@pytest.mark.parametrize("spec", ["a:b:c", "./models:acme:Model"])
def test_two_colons(plugin_host: Any, spec: str) -> None:
    assert "more than one colon" in error(plugin_host, spec)


@pytest.mark.parametrize("spec", ["", "./models:", "/", "a,,b"])
def test_no_module(plugin_host: Any, tmp_path: Path, spec: str) -> None:
    with pytest.raises(PluginError, match="--custom-architectures"):
        plugin_host(custom_architectures=(spec,))


def test_module_found_elsewhere(write: Any, plugin_host: Any) -> None:
    folder = write("json.py", ACME)
    text = error(plugin_host, f"{folder}:json")
    assert "'json' was found in" in text
    assert f"not under {folder.resolve()}" in text


def test_module_built_into_python(write: Any, plugin_host: Any) -> None:
    folder = write("sys.py", ACME)
    assert "'sys' was built into Python, not under" in error(plugin_host, f"{folder}:sys")


def test_failure_leaves_the_search_path_alone(write: Any, plugin_host: Any) -> None:
    folder = write("acme_bad.py", "import does_not_exist_anywhere")
    error(plugin_host, f"{folder}:acme_bad")
    assert str(folder.resolve()) not in sys.path


def test_replaces_a_built_in_with_one_warning_that_names_both(write: Any, plugin_host: Any) -> None:
    folder = write("acme_llama.py", ACME.replace("AcmeFor", "LlamaFor"))
    host = plugin_host(custom_architectures=(f"{folder}:acme_llama",))
    assert host.architectures.get("LlamaForCausalLM").plugin == "acme_llama"
    (warning,) = host.warnings
    assert "architecture 'LlamaForCausalLM' of plugin 'acme_llama'" in warning
    assert "replaces that of plugin 'builtin.architectures' (maxserve" in warning


def test_two_custom_modules_with_one_name(write: Any, plugin_host: Any) -> None:
    folder = write("acme_one.py", ACME)
    write("acme_two.py", ACME)
    with pytest.raises(
        PluginError, match=r"'AcmeForCausalLM' is declared by plugin 'acme_one' .* and by plugin 'acme_"
    ):
        plugin_host(custom_architectures=(f"{folder}:acme_one", f"{folder}:acme_two"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('name="", build="a:b"', "a name must be some text, not ''"),
        ('name=3, build="a:b"', "must be some text, not 3"),
        ('name="A", build="acme_model"', "build must be 'module:attribute' or the thing itself, not 'acme_model'"),
        ('name="A", build=5', "architecture 'A': build must be 'module:attribute' or the thing itself, not 5"),
        ('name="A", build="a:b", config=None', "architecture 'A': config must be"),
    ],
)
def test_declarations_of_nothing(write: Any, plugin_host: Any, fields: str, message: str) -> None:
    folder = write("acme_void.py", f"from maxserve import Architecture\nARCHITECTURES = [Architecture({fields})]")
    with pytest.raises(PluginError, match=re.escape(message)) as raised:
        plugin_host(custom_architectures=(f"{folder}:acme_void",))
    assert "plugin 'acme_void'" in str(raised.value)
