from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.architecture import WeightMap
from maxserve.plugins.commands.listing import plural

ACME = """
from maxserve import Architecture, Sampler, hookimpl

@hookimpl
def maxserve_architectures():
    yield Architecture(
        name="AcmeForCausalLM",
        build="acme_llm:Model",
        summary="Acme's own",
        aliases=("Acme2ForCausalLM",),
        example_repos=("acme/one",),
        encodings=("bfloat16",),
    )

@hookimpl
def maxserve_samplers():
    yield Sampler(name="chill", build=chill, stage=10, keeps_argmax=True)

def chill(context):
    return None

class Model:
    pass
"""


@pytest.fixture(autouse=True)
def _plugin(plugin_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plugin_folder.module("acme_llm", ACME)
    plugin_folder.distribution("acme-llm", "1.2", {"acme": "acme_llm"})


def block(text: str, name: str) -> list[str]:
    """The lines about one component: kind, name, provider, and what is indented below."""
    lines = text.splitlines()
    (start,) = [number for number, line in enumerate(lines) if f" {name} " in line and line[0] != " "]
    below = list(itertools.takewhile(lambda line: line.startswith(" "), lines[start + 1 :]))
    return [" ".join(line.split()) for line in (lines[start], *below)]


def test_formats_alone_are_listed(max_cli: Any) -> None:
    listed = json.loads(max_cli("list", "--formats", "--json").out)
    assert set(listed) == {"weight_formats", "quantization_formats"}
    assert {"gguf", "safetensors"} <= set(listed["weight_formats"])
    known = {"awq", "bitsandbytes", "compressed-tensors", "fp8", "gguf", "gptq", "modelopt", "mxfp4"}
    assert known <= set(listed["quantization_formats"])
    assert all(each["plugin"] and each["summary"] for kind in listed.values() for each in kind.values())


def test_formats_are_no_kind_beside_another(max_cli: Any) -> None:
    ran = max_cli("list", "samplers", "--formats")
    assert ran.status != 0
    assert "leave out it, or samplers" in ran.err


def test_table(max_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    ran = max_cli("list")
    assert ran.status == 0
    assert ran.out.splitlines()[0].split() == ["KIND", "NAME", "PROVIDER"]
    assert block(ran.out, "AcmeForCausalLM") == [
        "architecture AcmeForCausalLM acme (acme-llm 1.2)",
        "Acme's own",
        "acme_llm:Model native aliases=Acme2ForCausalLM encodings=bfloat16",
    ]
    assert block(ran.out, "chill")[1:] == ["acme_llm:chill stage=10 keeps_argmax"]
    assert block(ran.out, "continuous")[0].startswith("scheduler continuous builtin.schedulers (maxserve ")


def test_lines_fit_the_terminal(max_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, max_cli("list").out.splitlines())) <= 80


@pytest.mark.parametrize("kind", ["architecture", "architectures", "Architectures"])
def test_one_kind_in_singular_and_plural(max_cli: Any, kind: str) -> None:
    ran = max_cli("list", kind)
    assert {line.split()[0] for line in ran.out.splitlines()[1:] if line[0] != " "} == {"architecture"}


@pytest.mark.parametrize("kind", ["cache-strategy", "cache_strategies", "cache-strategies", "cache strategy"])
def test_kinds_of_two_words(max_cli: Any, kind: str) -> None:
    assert "paged" in max_cli("list", kind).out


@pytest.mark.parametrize("kind", ["route", "routes"])
def test_kind_that_is_a_plural_already(max_cli: Any, kind: str) -> None:
    assert "openai" in max_cli("list", kind).out


def test_unknown_kind(max_cli: Any) -> None:
    ran = max_cli("list", "sampelrs")
    assert ran.status == 2
    assert ran.err.startswith(
        "Error: there is no kind 'sampelrs' (did you mean 'samplers'?); the kinds are: architectures,"
    )
    assert ran.err.count("\n") == 1


def test_json(max_cli: Any, plugin_folder: Any) -> None:
    report = json.loads(max_cli("list", "--json").out)
    assert set(report) >= {"architectures", "cache_strategies", "schedulers", "samplers", "routes", "observers"}
    file = plugin_folder.path / "acme_llm.py"
    lines = file.read_text().splitlines()
    facts = {
        "summary": "Acme's own",
        "plugin": "acme",
        "origin": "entry point",
        "distribution": "acme-llm",
        "version": "1.2",
        "build": "acme_llm:Model",
        "source": f"{file}:{lines.index('class Model:') + 1}",
        "declared": f"{file}:{lines.index('    yield Architecture(') + 1}",
        "example_repo_ids": ["acme/one"],
        "supported_encodings": ["bfloat16"],
        "support": "native",
        "fallback": None,
        "aliases": ["Acme2ForCausalLM"],
        "config": "maxserve.layers:from_transformers",
        "weights": json.loads(json.dumps(asdict(WeightMap()))),
        "task": "text_generation",
    }
    assert report["architectures"]["AcmeForCausalLM"].items() >= facts.items()
    assert report["samplers"]["chill"]["source"] == f"{file}:{lines.index('def chill(context):') + 1}"
    assert report["samplers"]["chill"]["keeps_argmax"] is True
    own = report["architectures"]["LlamaForCausalLM"]
    assert (own["distribution"], own["plugin"]) == ("maxserve", "builtin.architectures")
    for key, line in (("source", "class Model(DecoderModel):"), ("declared", "    yield Architecture(")):
        path, _, number = own[key].rpartition(":")
        assert Path(path).read_text().splitlines()[int(number) - 1] == line


def test_every_component_has_a_place(max_cli: Any) -> None:
    for kind, entries in json.loads(max_cli("list", "--json").out).items():
        for name, facts in entries.items():
            assert Path(facts["declared"].rpartition(":")[0] or facts["declared"]).is_file(), (kind, name)
            assert facts["source"], (kind, name)


def test_what_serves_models_that_nothing_is_named_after_is_marked(max_cli: Any) -> None:
    assert " fallback " in " ".join(block(max_cli("list", "architectures").out, "transformers"))
    facts = json.loads(max_cli("list", "architectures", "--json").out)["architectures"]["transformers"]
    assert facts["support"] == "fallback"
    assert facts["fallback"] == "maxserve.plugins.transformers.choice:refusal"


def test_json_of_one_kind(max_cli: Any) -> None:
    assert set(json.loads(max_cli("list", "scheduler", "--json").out)) == {"schedulers"}


def test_broken_plugins_are_named_below(max_cli: Any, plugin_folder: Any) -> None:
    plugin_folder.module("acme_bad", "1 / 0")
    ran = max_cli("list", "--plugin", "acme_bad")
    assert ran.status == 0
    assert "AcmeForCausalLM" in ran.out
    assert "Warning: plugin 'acme_bad'" in ran.err


def test_plural() -> None:
    assert [plural(kind) for kind in ("scheduler", "cache_strategy", "routes")] == [
        "schedulers",
        "cache_strategies",
        "routes",
    ]
