"""Options of the model in a program: when it is looked at, what its family insists on, the type of its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve import LLM
from maxserve.core.interfaces.errors import ModelError


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


def test_a_deferred_model_is_looked_at_when_it_is_first_used(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "model"
    llm = LLM(str(moved), defer_resolve=True)
    with pytest.raises(ModelError, match="there is no folder"):
        llm.build()
    shutil.copytree(folder, moved)
    asked: Any = {"prompts": "the quick", "max_tokens": 4, "temperature": 0.0}
    assert llm.generate(**asked)[0].tokens == LLM(str(folder)).generate(**asked)[0].tokens
    built = llm.info
    llm.build()
    assert llm.info is built, "it is built once"
    with pytest.raises(ModelError, match="there is no folder"):
        LLM(str(tmp_path / "missing"))


@pytest.mark.parametrize("value", ["1", "true", "YES"])
def test_the_environment_may_defer_where_it_is_given(value: str, tmp_path: Path) -> None:
    llm = LLM(str(tmp_path / "missing"), environ={"MODULAR_PIPELINE_DEFER_RESOLVE": value})
    assert llm.settings.model.defer_resolve
    with pytest.raises(ModelError, match="there is no folder"):
        _ = llm.info
    with pytest.raises(ModelError, match="there is no folder"):
        LLM(str(tmp_path / "missing"), environ={"MODULAR_PIPELINE_DEFER_RESOLVE": "no"})


def test_what_an_architecture_insists_on(folder: Path, plugin_host: Any, tmp_path: Path) -> None:
    (tmp_path / "insisting.py").write_text(
        "from maxserve import Architecture\n"
        "from maxserve.architectures import FUSED\n"
        "ARCHITECTURES = [Architecture(name='LlamaForCausalLM', build='maxserve.architectures.llama:Model',\n"
        "                              weights=FUSED, required_arguments={'max_batch_size': 3})]\n"
    )
    host = plugin_host(custom_architectures=(f"{tmp_path}:insisting",))
    assert LLM(str(folder), host=host, max_batch_size=5).info.max_batch_size == 3
    assert LLM(str(folder), host=host, max_batch_size=5, force=True).info.max_batch_size == 5


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize(("stored", "wanted"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_cast_weights_are_those_of_a_checkpoint_in_that_type(
    architecture: str, stored: str, wanted: str, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    source = model_folder(architecture=architecture, dtype=stored)
    shutil.copytree(source, tmp_path / "cast")
    tensors = load_file(source / "model.safetensors")
    save_file({k: t.to(getattr(torch, wanted)) for k, t in tensors.items()}, tmp_path / "cast" / "model.safetensors")
    asked: Any = {"prompts": "the quick brown", "max_tokens": 12, "temperature": 0.0, "logprobs": 0}
    casting = {"quantization_encoding": wanted, "allow_safetensors_weights_fp32_bf6_bidirectional_cast": True}
    cast = LLM(str(source), **casting).generate(**asked)[0]
    plain = LLM(str(tmp_path / "cast"), quantization_encoding=wanted).generate(**asked)[0]
    assert cast.tokens == plain.tokens
    assert [each.logprob for each in cast.logprobs] == pytest.approx(
        [each.logprob for each in plain.logprobs], abs=1e-5
    )


POLICY = """
from dataclasses import dataclass
from maxserve import ConfigSection, hookimpl

@dataclass(frozen=True)
class Config:
    aging: float = 0.5

@hookimpl
def maxserve_config():
    yield ConfigSection(name="acme-policy", schema=Config)
"""


def test_variables_about_plugins_and_of_their_settings(folder: Path, plugin_folder: Any) -> None:
    plugin_folder.module("acme_policy", POLICY)
    plugin_folder.distribution("acme", "1.0", {"acme": "acme_policy"})
    llm = LLM(str(folder), defer_resolve=True, environ={"MAX_SERVE_ACME_POLICY_AGING": "0.75"})
    assert [values.aging for values in llm.host.section_values(llm.settings).values() if hasattr(values, "aging")] == [
        0.75
    ]
    for variables in ({"MAX_SERVE_PLUGIN_AUTOLOAD": "0"}, {"MAX_SERVE_DISABLE_PLUGINS": "acme"}):
        llm = LLM(str(folder), defer_resolve=True, environ=variables)
        assert [plugin.active for plugin in llm.host.plugins if plugin.name == "acme"] == [False]
