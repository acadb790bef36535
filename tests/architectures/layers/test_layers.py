"""Each brick against transformers' own or plain arithmetic in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb

from maxserve.architectures.layers import (
    Attention,
    DecoderModel,
    Embedding,
    GatedMLP,
    Linear,
    RMSNorm,
    Rotary,
)
from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.architectures.layers.mlp import ACTIVATIONS
from maxserve.architectures.layers.rope import frequencies
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.step_context import StepContext
from maxserve.testing.tiny_cache import TinyCache, make_step


def config(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 20, "dim": 32, "layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn_dim": 24}
    return ModelConfig(**{**sizes, "max_length": 64, **changes})


def step_at(position: int, tokens: int = 3) -> StepContext:
    cache = TinyCache([], max_length=position + tokens)
    cache.lengths[0] = position
    return make_step(cache, [(0, range(tokens))])


def rotated(rotary: ModelConfig, x: torch.Tensor, position: int) -> torch.Tensor:
    table = Rotary(rotary)
    table.prepare(torch.device("cpu"))
    step = table(step_at(position, len(x)), x.dtype)
    return step.apply_rope(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(dtype: torch.dtype) -> None:
    ours, theirs = RMSNorm(48, 1e-3), LlamaRMSNorm(48, 1e-3)
    weight = torch.randn(48)
    ours.weight.copy_(weight)
    theirs.load_state_dict({"weight": weight})
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = (30 * torch.randn(5, 48)).to(dtype)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-6)


def test_linear_and_embedding() -> None:
    linear, table = Linear(5, 3, bias=True), Embedding(7, 5)
    for parameter in (*linear.parameters(), *table.parameters()):
        torch.nn.init.normal_(parameter)
    ids = torch.tensor([6, 0, 6])
    x = table.weight[ids]
    assert linear.bias is not None
    assert torch.equal(table(ids), x)
    torch.testing.assert_close(linear(x), x @ linear.weight.T + linear.bias)
    assert Linear(5, 3).bias is None
    assert not any(parameter.requires_grad for parameter in linear.parameters())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str) -> None:
    x = torch.linspace(-6, 6, 200)
    torch.testing.assert_close(ACTIVATIONS[name](x), ACT2FN[name](x))


def test_gated_mlp() -> None:
    mlp = GatedMLP(config(activation="relu", mlp_bias=True))
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(3, 32)
    weight, bias = mlp.gate_up_proj.weight, mlp.gate_up_proj.bias
    assert bias is not None
    gate, up = F.linear(x, weight[:24], bias[:24]), F.linear(x, weight[24:], bias[24:])
    torch.testing.assert_close(mlp(x), F.linear(gate.relu() * up, mlp.down_proj.weight, mlp.down_proj.bias))


@pytest.mark.parametrize("partial", [1.0, 0.5, 0.75])
def test_rotary_rotates_the_first_part_of_a_head(partial: float) -> None:
    spec = config(rope=RopeConfig(partial=partial))
    x = torch.randn(3, 6, 16)
    angles = torch.arange(40, 43).float()[:, None] * frequencies(spec.rope, spec.head_dim, 64)[0]
    cos, sin = (torch.cat((part, part), dim=-1)[None] for part in (angles.cos(), angles.sin()))
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1)[None], x.transpose(0, 1)[None], cos, sin)
    torch.testing.assert_close(rotated(spec, x, 40), expected[0].transpose(0, 1), rtol=0, atol=1e-6)


def test_rotary_keeps_float32_angles_for_bfloat16() -> None:
    spec = config(max_length=4096)
    x = torch.randn(3, 6, 16)
    exact = rotated(spec, x, 4000)
    rounded = rotated(spec, x.bfloat16(), 4000)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.06)


def test_scores_depend_on_the_distance_of_positions() -> None:
    spec = config(max_length=4096)
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    near = (rotated(spec, q, 15) * rotated(spec, k, 10)).sum()
    far = (rotated(spec, q, 3015) * rotated(spec, k, 3010)).sum()
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


def test_the_table_lies_where_the_weights_are_and_in_no_checkpoint() -> None:
    class Model(DecoderModel):
        Block = GatedMLPBlock

    with torch.device("meta"):
        model = Model(config())
    assert not [name for name in model.state_dict() if "rotary" in name]
    model.to_empty(device="cpu")
    model.prepare()
    (rotary,) = model.rotary.ropes.values()
    assert isinstance(rotary, Rotary)
    assert rotary.table.device.type == "cpu"
    assert rotary.table.dtype == torch.float32
    assert rotary.table.shape == (64, 16)


class GatedMLPBlock(torch.nn.Module):
    def __init__(self, spec: ModelConfig, layer: int) -> None:
        super().__init__()
        self.mlp = GatedMLP(spec)

    def forward(self, x: torch.Tensor, step: StepContext) -> torch.Tensor:
        out: torch.Tensor = self.mlp(x)
        return out


def test_attention_gives_its_layer_heads_as_configured() -> None:
    """The back end sees [T, heads, head_dim] queries and [T, kv_heads, head_dim] keys and values of its layer."""
    seen: list[tuple[int, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []

    class Recorder:
        def begin(self, inputs: StepInputs) -> None: ...

        def attend(
            self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: StepInputs, *others: Any
        ) -> torch.Tensor:
            seen.append((layer, tuple(q.shape), tuple(k.shape), tuple(v.shape)))
            return torch.zeros_like(q)

    spec = config(layers=6)
    rotary = Rotary(spec)
    rotary.prepare(torch.device("cpu"))
    step = step_at(0)
    step.attention = Recorder()
    attention = Attention(spec, 5, qk_norm=True)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    assert attention(torch.randn(3, 32), rotary(step, torch.float32)).shape == (3, 32)
    assert seen == [(5, (3, 4, 16), (3, 2, 16), (3, 2, 16))]
