"""`max plugins new`: what it writes is installed, listed and tested as it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.registry.kinds import KINDS as TABLE
from maxserve.plugins.commands.new_plugin import KINDS, filling

WRITTEN = {
    "architecture": ("AcmeTwoForCausalLM", "acme_two", "AcmeTwoForCausalLM"),
    "sampler": ("cold-floor", "cold_floor", "cold_floor"),
    "scheduler": ("patient", "patient", "patient"),
    "cache-format": ("half-width", "half_width", "half-width"),
    "cache-strategy": ("long_shelf", "long_shelf", "long-shelf"),
    "eviction-policy": ("hoard", "hoard", "hoard"),
    "grammar-backend": ("few-words", "few_words", "few-words"),
    "layer-compiler": ("one-call", "one_call", "one-call"),
    "linear-method": ("packing", "packing", "packing"),
    "observer": ("gauge", "gauge", "gauge"),
    "reasoning-parser": ("pondering", "pondering", "pondering"),
    "routes": ("counting", "counting", "counting"),
    "tool-parser": ("calling", "calling", "calling"),
    "adapter-source": ("far-shelf", "far_shelf", "far-shelf"),
    "adapter": ("scaling", "scaling", "scaling"),
    "attention-backend": ("near-sight", "near_sight", "near-sight"),
    "engine": ("mean-rows", "mean_rows", "mean-rows"),
    "balancer": ("fewest-first", "fewest_first", "fewest-first"),
    "transport": ("carrier-pigeon", "carrier_pigeon", "carrier-pigeon"),
    "executor": ("far-away", "far_away", "far-away"),
    "http-server": ("plain-serve", "plain_serve", "plain-serve"),
    "middleware": ("doorkeeper", "doorkeeper", "doorkeeper"),
    "model-runner": ("plain-run", "plain_run", "plain-run"),
    "speculator": ("foresight", "foresight", "foresight"),
    "quantization-format": ("bytewise", "bytewise", "bytewise"),
    "weight-format": ("raw-bytes", "raw_bytes", "raw-bytes"),
    "command": ("say-name", "say_name", ""),
    "model-source": ("shelf", "shelf", ""),
    "chat-template": ("plain-dialog", "plain_dialog", ""),
    "tokenizer": ("plain-bytes", "plain_bytes", ""),
}

PLURALS = {"cache-strategy": "cache-strategies", "eviction-policy": "eviction-policies", "routes": "routes"}
PARTLY = ("linear-method", "layer-compiler", "attention-backend")  # begin with what is simple, and leave out the rest


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path or ""), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=600)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


EACH = """
import json, sys
from maxserve.core.cli.run import run
sys.exit(max(run(words, {}) for words in json.loads(sys.argv[1])))
"""

# What pip asks of setuptools, which it would start three times for each package.
WHEELS = """
import os, sys
from setuptools import build_meta
out, *folders = sys.argv[1:]
for folder in folders:
    child = os.fork()
    if not child:
        os.chdir(folder)
        build_meta.build_wheel(out)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, folder
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind."""
    into = tmp_path_factory.mktemp("packages")
    commands = [("plugins", "new", kind, name, "--into", str(into)) for kind, (name, _, _) in WRITTEN.items()]
    text = run(sys.executable, "-c", EACH, json.dumps(commands), cwd=into)
    folders = {kind: into / package for kind, (_, package, _) in WRITTEN.items()}
    for folder in folders.values():
        assert f"into {folder}; next:" in text
        assert f"pip install --no-build-isolation -e {folder}" in text
    return folders


@pytest.fixture(scope="module")
def tried(written: dict[str, Path], forked_pytest: Any) -> dict[str, Any]:
    """The tests of each package, run in its folder."""
    runs = [{"cwd": str(f), "path": [str(f)], "args": ["-q", "-p", "no:cacheprovider"]} for f in written.values()]
    return dict(zip(written, forked_pytest(runs), strict=True))


@pytest.fixture(scope="module")
def installed(written: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all packages, as pip puts them there."""
    site, wheels = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("wheels")
    run(sys.executable, "-c", WHEELS, str(wheels), *map(str, written.values()), cwd=site)
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index")
    run(*pip, "--target", str(site), *map(str, wheels.glob("*.whl")), cwd=site)
    return site


@pytest.fixture(scope="module")
def listed(installed: Path) -> dict[str, Any]:
    """What `max list` and `max plugins` say of them, by command."""
    return {
        command: json.loads(run(sys.executable, "-m", "maxserve", command, "--json", cwd=installed, path=installed))
        for command in ("list", "plugins")
    }


def test_every_kind_is_tried() -> None:
    assert set(WRITTEN) == set(KINDS)


@pytest.mark.timeout(900)  # the first waits for all
@pytest.mark.parametrize("kind", KINDS)
def test_its_tests_pass_as_they_come(kind: str, written: dict[str, Path], tried: dict[str, Any]) -> None:
    files = [file for file in written[kind].rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert not [file for file in files if "{{" in file.read_text() + file.name]
    assert tried[kind]["status"] == 0, tried[kind]["output"]
    assert " passed" in tried[kind]["output"]
    assert "skipped" not in tried[kind]["output"] or kind in PARTLY


@pytest.mark.timeout(900)  # the first waits for all
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_installed_and_listed(kind: str, installed: Path, listed: dict[str, Any]) -> None:
    _, package, component = WRITTEN[kind]
    if not component:
        assert package in json.dumps(listed["plugins"])
        return
    facts = listed["list"][PLURALS.get(kind, f"{kind}s").replace("-", "_")][component]
    assert (facts["plugin"], facts["distribution"], facts["version"]) == (package, package.replace("_", "-"), "0.1.0")
    assert facts["declared"].startswith(f"{installed / package}")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "begins with a letter"),
        ("2fast", "begins with a letter"),
        ("a b", "begins with a letter"),
        ("../up", "begins with a letter"),
        ("a--b", "begins with a letter"),
        ("json", "Python has a module of that name"),
        ("torch", "Python has a module of that name"),
        ("maxserve", "Python has a module of that name"),
        ("class", "Python has a module of that name"),
    ],
)
def test_names_are_checked(name: str, why: str, max_cli: Any, tmp_path: Path) -> None:
    ran = max_cli("plugins", "new", "sampler", "--into", str(tmp_path), "--", name)
    assert ran.status == 2
    assert "a plugin cannot be called" in ran.err
    assert why in ran.err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(max_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "chilly").write_text("mine")
    ran = max_cli("plugins", "new", "sampler", "Chilly", "--into", str(tmp_path))
    assert ran.status == 2
    assert "chilly exists already and is left alone" in ran.err
    assert (tmp_path / "chilly").read_text() == "mine"


def test_unknown_kind_and_options_of_the_list(max_cli: Any) -> None:
    ran = max_cli("plugins", "new", "route", "x")
    assert ran.status == 2
    assert "'cache-strategy', 'chat-template', 'command', 'engine'" in ran.err
    ran = max_cli("plugins", "--json", "new", "sampler", "x")
    assert ran.status == 2
    assert "--json and --trace are not for plugins new" in ran.err


def test_every_kind_has_a_template() -> None:
    assert {kind.name.replace("_", "-") for kind in TABLE} <= set(KINDS)


@pytest.mark.parametrize(
    ("name", "package", "architecture"),
    [
        ("acme", "acme", "AcmeForCausalLM"),
        ("acme-two", "acme_two", "AcmeTwoForCausalLM"),
        ("Acme2ForCausalLM", "acme2", "Acme2ForCausalLM"),
        ("MiniAcmeForCausalLM", "mini_acme", "MiniAcmeForCausalLM"),
    ],
)
def test_one_name_gives_the_others(name: str, package: str, architecture: str) -> None:
    words = filling("architecture", name)
    assert (words["package"], words["architecture"]) == (package, architecture)
    assert words["distribution"] == package.replace("_", "-")
