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
    "cache-strategy": ("long_shelf", "long_shelf", "long-shelf"),
    "eviction-policy": ("hoard", "hoard", "hoard"),
    "grammar-backend": ("few-words", "few_words", "few-words"),
    "layer-compiler": ("one-call", "one_call", "one-call"),
    "linear-method": ("packing", "packing", "packing"),
    "observer": ("gauge", "gauge", "gauge"),
    "reasoning-parser": ("pondering", "pondering", "pondering"),
    "routes": ("counting", "counting", "counting"),
    "tool-parser": ("calling", "calling", "calling"),
    "adapter": ("scaling", "scaling", "scaling"),
    "attention-backend": ("near-sight", "near_sight", "near-sight"),
    "engine": ("mean-rows", "mean_rows", "mean-rows"),
    "executor": ("far-away", "far_away", "far-away"),
    "model-runner": ("plain-run", "plain_run", "plain-run"),
    "quantization-format": ("bytewise", "bytewise", "bytewise"),
    "command": ("say-name", "say_name", ""),
    "model-source": ("shelf", "shelf", ""),
}

PARTLY = ("linear-method", "layer-compiler", "attention-backend")  # begin with what is simple, and leave out the rest


def run(*command: str, cwd: Path, path: Path | None = None) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path or ""), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=env, timeout=280)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_installed_and_its_tests_pass(kind: str, max_cli: Any, tmp_path: Path) -> None:
    name, package, component = WRITTEN[kind]
    ran = max_cli("plugins", "new", kind, name, "--into", str(tmp_path))
    assert (ran.status, ran.err) == (0, "")
    folder = tmp_path / package
    assert f"into {folder}; next:" in ran.out
    assert f"pip install --no-build-isolation -e {folder}" in ran.out
    assert not [file for file in folder.rglob("*") if file.is_file() and "{{" in file.read_text() + file.name]
    text = run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=folder)
    assert " passed" in text
    assert "skipped" not in text or kind in PARTLY

    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--target", str(site), str(folder), cwd=tmp_path)
    if not component:
        listed = json.loads(run(sys.executable, "-m", "maxserve", "plugins", "--json", cwd=tmp_path, path=site))
        assert package in json.dumps(listed)
        return
    listed = json.loads(run(sys.executable, "-m", "maxserve", "list", kind, "--json", cwd=tmp_path, path=site))
    (facts,) = [components[component] for components in listed.values()]
    assert (facts["plugin"], facts["distribution"], facts["version"]) == (package, package.replace("_", "-"), "0.1.0")
    assert facts["declared"].startswith(f"{site / package}")


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
    assert "'architecture', 'cache-strategy', 'command'" in ran.err
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
