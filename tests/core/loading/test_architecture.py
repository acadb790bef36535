"""Who serves a model that no architecture is named after?"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.architecture import find_fallback, read_spec, read_weight_map
from maxserve.core.loading.location import ModelFolder
from maxserve.core.registry.protocol import Host

FOLDER = ModelFolder(path="here", config={"architectures": ["AcmeForCausalLM"], "kind": "acme"}, trusted=True)


class Plugin:
    """One fallback, willing or not."""

    def __init__(self, name: str, fallback: Callable[[ModelFolder], str | None]) -> None:
        self._architecture = Architecture(name=name, build=dict, config=dict, fallback=fallback)

    @hookimpl
    def maxserve_architectures(self) -> list[Architecture]:
        return [self._architecture]


def only_acme(folder: ModelFolder) -> str | None:
    return None if folder.config["kind"] == "acme" and folder.trusted else "it is not of Acme's"


@pytest.fixture
def host(plugin_host: Any) -> Callable[..., Host]:
    def make(*plugins: Plugin) -> Host:
        made: Host = plugin_host(*plugins, no_plugin=("builtin.transformers",))
        return made

    return make


def test_the_one_that_is_willing_serves(host: Any) -> None:
    made = host(Plugin("acme", only_acme), Plugin("other", lambda folder: "no"))
    assert find_fallback(made, FOLDER, "unknown").name == "acme"


def test_two_that_are_willing_are_an_error_that_names_both(host: Any) -> None:
    made = host(Plugin("acme", only_acme), Plugin("other", lambda folder: None))
    with pytest.raises(ModelError, match=r"unknown; .*'acme' of .* and .*'other' of .* --no-plugin"):
        find_fallback(made, FOLDER, "unknown")


def test_every_reason_is_told_when_nobody_is_willing(host: Any) -> None:
    made = host(Plugin("acme", only_acme), Plugin("other", lambda folder: "too large"))
    strange = ModelFolder(path="here", config={"kind": "other"})
    message = "unknown; fallback 'acme': it is not of Acme's; fallback 'other': too large"
    with pytest.raises(ModelError, match=message):
        find_fallback(made, strange, "unknown")


@pytest.mark.parametrize(("reads_folder", "expected"), [(True, FOLDER), (False, FOLDER.config)])
def test_a_config_is_read_from_the_folder_where_that_is_asked(
    plugin_host: Any, reads_folder: bool, expected: object
) -> None:
    class Reads:
        @hookimpl
        def maxserve_architectures(self) -> list[Architecture]:
            return [Architecture(name="Acme", build=dict, config=lambda given: given, reads_folder=reads_folder)]

    made: Host = plugin_host(Reads())
    assert read_spec(made, made.architectures.get("Acme"), FOLDER) is expected


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("LlamaForCausaLM", (), "did you mean 'LlamaForCausalLM'.*fallback 'transformers': transformers .* has no"),
        ("T5ForConditionalGeneration", (), "T5ForConditionalGeneration of transformers .* is no causal language"),
        ("OlmoeForCausalLM", ("--no-plugin", "builtin.transformers"), "no architecture is called 'OlmoeForCausalLM'"),
    ],
)
def test_a_model_nobody_serves_is_refused_by_name(
    max_cli: Any, tmp_path: Path, architecture: str, options: tuple[str, ...], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    done = max_cli("generate", "--model", str(tmp_path), "--prompt", "x", *options)
    assert done.status == 2
    assert re.search(message, done.err), done.err


class Positionless:
    """A spec without rotary positions."""

    vocab_size = dim = max_length = 8
    cache_layers = ()
    prompt_regimes = ()


def test_a_model_without_rotary_positions_has_none() -> None:
    spec: Any = Positionless()
    host: Any = SimpleNamespace()
    entry: Any = SimpleNamespace(component=Architecture(name="A", build="x:y"), name="A")
    for rope_type in ("none", None):
        assert read_weight_map(host, entry, spec, {}, rope_type=rope_type).changes == ()
    with pytest.raises(ModelError, match="architecture A has no rotary positions"):
        read_weight_map(host, entry, spec, {}, rope_type="neox")
