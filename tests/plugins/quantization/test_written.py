"""Folders that `max quantize` writes are served as the plain checkpoint is with its weights rounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.interfaces.errors import ModelError
from maxserve.plugins.commands.quantize import run
from maxserve.plugins.quantization import written
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.served import Served
from maxserve.testing.tiny_configs import tiny_config

ENCODING = "float8_e4m3fn"
PROMPT = torch.randint(2, 90, (20,), generator=torch.Generator().manual_seed(1)).tolist()
FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "untied": ("LlamaForCausalLM", {"tie_word_embeddings": False}),
    "tied": ("Qwen3ForCausalLM", {"tie_word_embeddings": True}),
    "experts": ("Qwen3MoeForCausalLM", {"moe_intermediate_size": 32, "norm_topk_prob": True}),
    "fused": ("Phi3ForCausalLM", {"sliding_window": None}),
}


@pytest.fixture(scope="module")
def host() -> PluginHost:
    return PluginHost.discover(PluginOptions(autoload=False), strict=True)


def saved(folder: Path, family: str, dtype: torch.dtype = torch.float32) -> Path:
    name, given = FAMILIES[family]
    model: Any = randomised(ArchitectureChecks.reference(tiny_config(name, architectures=[name], **given)))
    model.to(dtype).save_pretrained(folder)
    return folder


@pytest.mark.compiler
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_served_as_what_is_rounded_while_it_is_loaded(
    family: str, host: PluginHost, tmp_path: Path
) -> None:
    plain = saved(tmp_path / "plain", family)
    run(host, str(plain), tmp_path / "rounded", ENCODING, force=False)
    expected = Served(plain, host, quantization_encoding=ENCODING).answers([PROMPT], 6)[0]
    answer = Served(tmp_path / "rounded", host).answers([PROMPT], 6)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert answer.logprobs == expected.logprobs


def test_weights_are_a_byte_a_value_and_a_scale_a_row(host: PluginHost, tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain", "untied", torch.bfloat16)
    run(host, str(plain), tmp_path / "rounded", ENCODING, force=False)
    before, after = (load_file(each / "model.safetensors") for each in (plain, tmp_path / "rounded"))
    name = "model.layers.1.mlp.down_proj.weight"
    weight = before[name].float()
    scales = weight.abs().amax(1, keepdim=True) / 448
    assert torch.equal(after[f"{name}_scale"], scales)
    assert torch.equal(after[name].float(), (weight / scales).to(torch.float8_e4m3fn).float())
    assert after["lm_head.weight"].dtype is torch.float8_e4m3fn
    for kept in ("model.embed_tokens.weight", "model.norm.weight"):
        assert torch.equal(after[kept], before[kept])
    assert {each for each in after if not each.endswith("_scale")} == set(before)


def test_the_config_says_what_it_is(host: PluginHost, tmp_path: Path) -> None:
    plain = saved(tmp_path / "plain", "experts")
    (plain / "tokenizer.json").write_text("{}")
    run(host, str(plain), tmp_path / "rounded", ENCODING, force=False)
    config = json.loads((tmp_path / "rounded" / "config.json").read_text())
    settings = config["quantization_config"]
    assert (settings["quant_method"], settings["format"]) == ("compressed-tensors", "float-quantized")
    assert settings["ignore"] == [f"model.layers.{layer}.mlp.gate" for layer in range(config["num_hidden_layers"])]
    assert settings["config_groups"]["group_0"]["weights"]["strategy"] == "channel"
    assert (tmp_path / "rounded" / "tokenizer.json").read_text() == "{}"
    assert len({file.stat().st_mode for file in (tmp_path / "rounded").iterdir()}) == 1


@pytest.mark.compiler
def test_large_models_lie_in_several_files(host: PluginHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "_SHARD", 40_000)
    plain = saved(tmp_path / "plain", "tied")
    run(host, str(plain), tmp_path / "rounded", ENCODING, force=False)
    index = json.loads((tmp_path / "rounded" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 1
    tensors = {name: file for file in files for name in load_file(tmp_path / "rounded" / file)}
    assert tensors == index["weight_map"]
    expected = Served(plain, host, quantization_encoding=ENCODING).answers([PROMPT], 4)[0]
    assert Served(tmp_path / "rounded", host).answers([PROMPT], 4)[0].tokens == expected.tokens


def test_models_with_other_matrices_are_refused_by_name(host: PluginHost, tmp_path: Path) -> None:
    name = "GptOssForCausalLM"
    model: Any = randomised(ArchitectureChecks.reference(tiny_config(name, architectures=[name])))
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(ModelError, match=f"is not known as the weight of a projection, so models of {name} are not"):
        run(host, str(tmp_path / "plain"), tmp_path / "rounded", ENCODING, force=False)
    assert [file.name for file in tmp_path.iterdir()] == ["plain"]
