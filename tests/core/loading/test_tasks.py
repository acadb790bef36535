"""What a model is for: found out, or as the user wants it."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.config import resolve
from maxserve.core.interfaces.architecture import Architecture
from maxserve.core.interfaces.engine import Engine
from maxserve.core.interfaces.errors import ModelError, SettingsError
from maxserve.core.loading.model_loader import build_served
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.tasks import settle_task
from maxserve.core.registry.entries import Entry, Registry, find_architecture, load_ref, tasks_of
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.embeddings import maxserve_engines
from maxserve.testing.sections import built_in_sections

BOTH = ("text_generation", "embeddings_generation")

ENGINES = [Entry(kind="engine", component=each, plugin="p", origin="o") for each in maxserve_engines()]
HOST: Any = SimpleNamespace(of=lambda component: ENGINES, load=lambda entry, ref: load_ref(ref))


class Place:
    """Somewhere with a page on the hub, or without."""

    ref = "acme/model"

    def __init__(self, tag: str | None = None) -> None:
        self.tag = tag
        self.asked = 0

    def pipeline_tag(self) -> str | None:
        self.asked += 1
        return self.tag


def settle(served: tuple[str, ...], folder: Path, wanted: str | None = None, tag: str | None = None) -> Any:
    place: Any = Place(tag)
    return settle_task(served, wanted, place, folder, HOST)


def sentence_folder(folder: Path) -> Path:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_one_task_needs_no_question(tmp_path: Path) -> None:
    place: Any = Place("text-generation")
    assert settle_task(("embeddings_generation",), None, place, tmp_path, HOST) == "embeddings_generation"
    assert place.asked == 0
    assert settle((), tmp_path) is None


@pytest.mark.parametrize(
    ("tag", "task"),
    [
        ("text-generation", "text_generation"),
        ("feature-extraction", "embeddings_generation"),
        ("sentence-similarity", "embeddings_generation"),
        ("image-to-text", "text_generation"),
        (None, "text_generation"),
    ],
)
def test_of_two_tasks_the_tag_decides(tmp_path: Path, tag: str | None, task: str) -> None:
    assert settle(BOTH, tmp_path, tag=tag) == task


def test_without_a_tag_the_files_decide(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    assert settle(BOTH, folder) == "embeddings_generation"
    assert settle(BOTH, folder, tag="text-generation") == "text_generation"


def test_what_is_wanted_wins(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path)
    assert settle(BOTH, folder, wanted="text_generation", tag="sentence-similarity") == "text_generation"
    message = "--task scoring: the architecture of acme/model is for text_generation and embeddings_generation only"
    with pytest.raises(ModelError, match=re.escape(message)):
        settle(BOTH, folder, wanted="scoring")


def registry(*components: Architecture) -> Registry[Architecture]:
    entries = [Entry(kind="architecture", component=each, plugin="p", origin="o") for each in components]
    return Registry("architecture", entries)


def test_a_class_may_serve_two_tasks() -> None:
    known = registry(
        Architecture(name="AcmeForCausalLM", build="a:b"),
        Architecture(name="AcmeModel", aliases=("AcmeForCausalLM",), build="a:c", task="embeddings_generation"),
        Architecture(name="Other", build="a:d", task="scoring"),
    )
    assert tasks_of(known, ["AcmeForCausalLM"]) == BOTH
    assert tasks_of(known, ["AcmeForCausalLM_Legacy"]) == BOTH
    assert tasks_of(known, ["AcmeModel"]) == ("embeddings_generation",)
    assert tasks_of(known, ["Unknown"]) == ()
    assert find_architecture(known, ["AcmeForCausalLM"]).name == "AcmeForCausalLM"
    assert find_architecture(known, ["AcmeForCausalLM"], "embeddings_generation").name == "AcmeModel"


def test_plugins_may_share_a_class_for_different_tasks_only(plugin_folder: Any, plugin_host: Any) -> None:
    text = """
        from maxserve import Architecture, hookimpl
        @hookimpl
        def maxserve_architectures():
            yield Architecture(name="{name}", aliases=("LlamaForCausalLM",), build="a:b", task="{task}")
    """
    plugin_folder.module("acme_embeds", text.format(name="AcmeLlama", task="embeddings_generation"))
    host = plugin_host("acme_embeds")
    assert tasks_of(host.architectures, ["LlamaForCausalLM"]) == BOTH
    plugin_folder.module("acme_text", text.format(name="AcmeLlama", task="text_generation"))
    with pytest.raises(Exception, match="'LlamaForCausalLM' is declared by"):
        plugin_host("acme_text")


def test_what_is_built_in() -> None:
    known = PluginHost.discover(PluginOptions(autoload=False), strict=True).architectures
    for name in ("BertModel", "MPNetForMaskedLM", "XLMRobertaModel", "RobertaModel", "Qwen3Model"):
        assert tasks_of(known, [name]) == ("embeddings_generation",)
    for name in ("BertForSequenceClassification", "XLMRobertaForSequenceClassification"):
        assert tasks_of(known, [name]) == ("scoring",)
    assert tasks_of(known, ["Qwen3ForCausalLM"]) == BOTH
    assert tasks_of(known, ["LlamaForCausalLM"]) == ("text_generation",)


@pytest.mark.parametrize("others", [{}, {"lora_paths": ["sql=./sql"]}, {"lora_dir": "."}, {"max_num_loras": 2}])
def test_options_of_adapters_are_for_engines_that_serve_some(others: dict[str, Any]) -> None:
    """No model is loaded in vain."""
    component = Engine(name="acme", tasks=("humming",), build="acme:build")
    entry = Entry(kind="engine", component=component, plugin="acme", origin="o")
    sections = built_in_sections()
    host: Any = SimpleNamespace(of=lambda kind: [entry], plugin_sections=lambda: sections)
    files: Any = SimpleNamespace(task="humming")
    typed = {"enable_lora": True, **others}
    flags = "|".join("--" + name.replace("_", "-") for name in typed)
    with pytest.raises(
        SettingsError, match=f"^({flags}): plugin 'acme'.*: engine 'acme' serves no adapters; leave it out$"
    ):
        build_served(resolve(typed, environ={}, sections=sections), host, files, NullProgress())
