from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ACME = """
from maxserve import Scheduler, hookimpl
@hookimpl
def maxserve_schedulers():
    yield Scheduler(name="acme", build="acme_llm:build")
"""


@pytest.fixture(autouse=True)
def _plugins(plugin_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plugin_folder.module("acme_llm", ACME)
    plugin_folder.distribution("acme-llm", "1.2", {"acme": "acme_llm"})
    plugin_folder.module("acme_bad", "1 / 0")
    plugin_folder.distribution("older", "0.3", {"older": "older_llm"}, group="maxserve.v0")


def row(text: str, name: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return " ".join(found.split())


def test_table(max_cli: Any) -> None:
    ran = max_cli("plugins", "--plugin", "acme_bad", "--no-plugin", "builtin.demo")
    assert ran.status == 0
    assert ran.out.splitlines()[0].split() == ["NAME", "ORIGIN", "FROM", "IMPORT", "MS", "STATUS", "HOOKS"]
    assert row(ran.out, "acme").startswith("acme entry point acme-llm 1.2 ")
    assert row(ran.out, "acme").endswith(" active schedulers")
    assert "off: --no-plugin" in row(ran.out, "builtin.demo")
    assert "broken" in row(ran.out, "acme_bad")
    assert "off: is for maxserve.v0; this is v1" in row(ran.out, "older")
    assert "problem: plugin 'acme_bad' (--plugin acme_bad): cannot import 'acme_bad': ZeroDivisionError" in ran.out


def test_json(max_cli: Any, plugin_folder: Any) -> None:
    ran = max_cli("plugins", "--json", "--plugin", "acme_bad")
    report = json.loads(ran.out)
    by_name = {plugin["name"]: plugin for plugin in report["plugins"]}
    assert by_name["acme"]["import_ms"] >= 0
    del by_name["acme"]["import_ms"]
    assert by_name["acme"] == {
        "name": "acme",
        "origin": "entry point",
        "distribution": "acme-llm",
        "version": "1.2",
        "target": "acme_llm",
        "path": str(plugin_folder.path / "acme_llm.py"),
        "status": "active",
        "error": None,
        "hooks": ["maxserve_schedulers"],
    }
    assert by_name["acme_bad"]["status"] == "broken"
    assert "ZeroDivisionError" in by_name["acme_bad"]["error"]
    assert report["problems"] == [by_name["acme_bad"]["error"]]
    assert report["warnings"] == []
    assert len(report["fingerprint"]) == 32


def test_trace(max_cli: Any) -> None:
    ran = max_cli("plugins", "--trace")
    assert ran.status == 0
    assert "maxserve_schedulers [acme] -> [Scheduler(name='acme'" in ran.out


def test_custom_architecture_and_its_warning(max_cli: Any, tmp_path: Path) -> None:
    (tmp_path / "my_llama.py").write_text(
        "from maxserve import Architecture\nARCHITECTURES = [Architecture(name='LlamaForCausalLM', build='x:y')]\n"
    )
    ran = max_cli("plugins", "--custom-architectures", "./my_llama")
    assert str(tmp_path / "my_llama.py") in row(ran.out, "my_llama")
    assert row(ran.out, "my_llama").endswith("ARCHITECTURES")
    assert ran.out.count("warning: architecture 'LlamaForCausalLM' of plugin 'my_llama'") == 1


def test_trace_ends_with_what_is_wrong(max_cli: Any, plugin_folder: Any) -> None:
    plugin_folder.module(
        "acme_fails", "from maxserve import hookimpl\n@hookimpl\ndef maxserve_samplers():\n    yield 1 / 0\n"
    )
    ran = max_cli("plugins", "--trace", "--plugin", "acme_fails")
    assert "maxserve_samplers [builtin.samplers]" in ran.out
    assert "problem: plugin 'acme_fails'" in ran.out
    assert "ZeroDivisionError" in ran.out
