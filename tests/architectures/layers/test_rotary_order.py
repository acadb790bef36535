"""`--rope-type`: a checkpoint with its pairs side by side gives the logits of the one it was made from."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from maxserve.architectures import llama4
from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.architectures.layers.rotary_order import PairsApart, pairs_apart
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.architecture import randomised
from maxserve.testing.served import Expected, Served, continuation
from maxserve.testing.tiny_configs import model_class, tiny_config

PROMPT = list(range(3, 40))
SPEC = ModelConfig(vocab_size=8, dim=32, layers=1, heads=4, kv_heads=2, head_dim=16, ffn_dim=32, max_length=64)


def side_by_side(rows: torch.Tensor, head_dim: int, width: int) -> torch.Tensor:
    """Pairs half a head apart, brought side by side: entries i and i + width / 2 become 2i and 2i + 1."""
    source = torch.arange(head_dim)
    source[:width:2], source[1:width:2] = torch.arange(width // 2), torch.arange(width // 2, width)
    heads = rows.shape[0] // head_dim
    return rows[(torch.arange(heads)[:, None] * head_dim + source).flatten()].clone()


@pytest.mark.parametrize("shape", [(48, 5), (48,), (16, 3)])
@pytest.mark.parametrize("width", [16, 8])
def test_rows_come_back_in_order(shape: tuple[int, ...], width: int) -> None:
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    order = PairsApart(head_dim=16, width=width)
    assert torch.equal(order(side_by_side(rows, 16, width)), rows)
    assert not torch.equal(order(rows), rows)


def test_which_rows_are_put_in_order() -> None:
    changes = pairs_apart(head_dim=16, width=16)
    names = ("l.0.q_proj.weight", "l.0.k_proj.bias", "k_norm.weight")
    others = ("l.0.v_proj.weight", "l.0.qkv_proj.weight", "wq.weight", "l.q_proj.scale")
    found = [any(re.search(change.names, name) for change in changes) for name in (*names, *others)]
    assert found == [True] * 3 + [False] * 4


@pytest.fixture(scope="module", params=["LlamaForCausalLM", "Qwen3ForCausalLM"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Expected]:
    """A model as Hugging Face keeps it, the same with pairs side by side, and what transformers makes of it."""
    name = request.param
    bias = {"attention_bias": True}
    reference: Any = randomised(model_class(name)._from_config(tiny_config(name, **bias), attn_implementation="eager"))
    apart = tmp_path_factory.mktemp("model") / "apart"
    reference.save_pretrained(apart)
    together = apart.with_name("together")
    shutil.copytree(apart, together)
    tensors = load_file(together / "model.safetensors")
    for key, tensor in tensors.items():
        if any(part in key for part in ("q_proj", "k_proj", "q_norm", "k_norm")):
            tensors[key] = side_by_side(tensor, 16, 16)
    save_file(tensors, together / "model.safetensors")
    return apart, together, continuation(reference, PROMPT, 16)


@pytest.mark.parametrize("subgraphs", [True, False])
def test_normal_is_transformers_model(checkpoint: tuple[Path, Path, Expected], subgraphs: bool) -> None:
    apart, together, expected = checkpoint
    assert error(apart, expected, use_subgraphs=subgraphs, rope_type="neox") < 1e-4
    assert error(apart, expected, use_subgraphs=subgraphs) < 1e-4
    assert error(together, expected, use_subgraphs=subgraphs, rope_type="normal") < 1e-4
    assert error(together, expected, use_subgraphs=subgraphs) > 1e-2, "the order makes no difference"


def error(folder: Path, expected: Expected, **options: Any) -> float:
    """How far the log-probabilities of the first token are from the expected one's."""
    served = Served(folder, PluginHost.discover(PluginOptions(autoload=False), strict=True), **options)
    answer = served.answers([PROMPT], 16)[0]
    if answer.tokens != expected.tokens:
        return float("inf")
    return max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True))


def test_what_contradicts_the_model_is_refused() -> None:
    yarn = replace(SPEC, rope=RopeConfig(kind="yarn", factor=2.0, original_length=32))
    assert yarn.rotary_changes("yarn", "A") == ()
    for wanted, spec, kind in (("longrope", yarn, "yarn"), ("yarn", SPEC, "default"), ("none", SPEC, "default")):
        with pytest.raises(ModelError, match=rf"--rope-type {wanted}: the rope of this model is of type '{kind}'"):
            spec.rotary_changes(wanted, "A")


def test_a_checkpoint_without_such_rows_is_refused(tmp_path: Path) -> None:
    """Phi's checkpoints have queries, keys and values in one tensor: nothing would be put in order."""
    reference: Any = randomised(model_class("Phi3ForCausalLM")._from_config(tiny_config("Phi3ForCausalLM")))
    reference.save_pretrained(tmp_path)
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    with pytest.raises(ModelError, match="--rope-type normal: the checkpoint has no tensors q_proj and k_proj"):
        Served(tmp_path, host, rope_type="normal")
    assert Served(tmp_path, host, rope_type="neox").answers([PROMPT], 1)


def test_a_family_that_takes_pairs_side_by_side() -> None:
    spec = llama4.config({"num_hidden_layers": 1})
    assert spec.rotary_changes("normal", "Llama4ForCausalLM") == ()
    with pytest.raises(ModelError, match="Llama4ForCausalLM takes pairs side by side"):
        spec.rotary_changes("neox", "Llama4ForCausalLM")
