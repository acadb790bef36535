"""The choices bricks offer, each against transformers' own layer or plain arithmetic in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

from maxserve.architectures.layers import (
    Attention,
    DecoderModel,
    LayerNorm,
    LayerRotary,
    OffsetRMSNorm,
    PostNormBlock,
    PreNormBlock,
    Rotary,
    SandwichBlock,
    WholeNormAttention,
)
from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.step_context import StepContext
from maxserve.testing.tiny_cache import TinyCache, make_step

FAST, SLOW = RopeConfig(theta=100.0), RopeConfig(theta=1e6)


def config(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 20, "dim": 32, "layers": 4, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn_dim": 24}
    return ModelConfig(**{**sizes, "max_length": 64, **changes})


def step() -> StepContext:
    return make_step(TinyCache([]), [(0, range(5))])


def filled(module: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_offset_norm(dtype: torch.dtype) -> None:
    """In bfloat16 too the factor is exactly one more than the weight."""
    ours, theirs = filled(OffsetRMSNorm(48, 1e-3)).to(dtype), Gemma2RMSNorm(48, 1e-3)
    theirs.load_state_dict({"weight": ours.weight})
    x = (30 * torch.randn(5, 48)).to(dtype)
    torch.testing.assert_close(ours(x), theirs.to(dtype)(x), rtol=1e-5 if dtype == torch.float32 else 4e-3, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norm_has_no_parameters(dtype: torch.dtype) -> None:
    ours = LayerNorm(48, 1e-5)
    x = (30 + 3 * torch.randn(5, 48)).to(dtype)
    assert torch.equal(ours(x), OlmoLayerNorm(48)(x))
    assert not list(ours.parameters())


def seen_by(attention: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The queries, keys and values a back end gets."""
    seen: list[torch.Tensor] = []

    class Recorder:
        def begin(self, inputs: StepInputs) -> None: ...

        def attend(
            self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, inputs: StepInputs, *others: Any
        ) -> torch.Tensor:
            seen.extend((q, k, v))
            return torch.zeros_like(q)

    plain = step()
    plain.attention = Recorder()
    rotary = Rotary(config(rope=FAST))
    rotary.prepare(torch.device("cpu"))
    attention(x, rotary(plain, x.dtype))
    q, k, v = seen
    return q, k, v


def projected(attention: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rows = F.linear(x, attention.qkv_proj.weight).view(5, 8, 16)
    return rows[:, :4], rows[:, 4:6], rows[:, 6:]


def test_clipped_projections() -> None:
    x, still = torch.randn(5, 32), config(ropes=(None,) * 4)
    attention = filled(Attention(still, 0, clip=1.5))
    for ours, plain in zip(seen_by(attention, x), projected(attention, x), strict=True):
        assert plain.abs().max() > 1.5
        torch.testing.assert_close(ours, plain.clamp(-1.5, 1.5))


def test_norm_over_all_heads_together() -> None:
    x, still = torch.randn(5, 32), config(ropes=(None,) * 4, eps=1e-2)
    attention = filled(WholeNormAttention(still, 0))
    q, k, v = seen_by(attention, x)
    plain_q, plain_k, plain_v = projected(attention, x)
    for ours, plain, norm in ((q, plain_q, attention.q_norm), (k, plain_k, attention.k_norm)):
        flat = plain.flatten(1).double()
        expected = flat / (flat.pow(2).mean(dim=1, keepdim=True) + 1e-2).sqrt() * norm.weight
        torch.testing.assert_close(ours.flatten(1).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(v, plain_v)


@pytest.mark.parametrize("kind", [Attention, WholeNormAttention])
def test_layers_without_a_rope_rotate_nothing(kind: Any) -> None:
    x, spec = torch.randn(5, 32), config(rope=FAST, ropes=(FAST, None, FAST, None))
    rotated, still = (seen_by(filled(kind(spec, layer)), x) for layer in (0, 1))
    assert torch.equal(rotated[0][0], still[0][0])  # position 0 is where it is
    assert not torch.allclose(rotated[0][1:], still[0][1:])
    assert not torch.allclose(rotated[1][1:], still[1][1:])
    assert torch.equal(rotated[2], still[2])


def test_each_layer_gets_the_rotations_of_its_own_rope() -> None:
    spec = config(ropes=(FAST, SLOW, None, FAST))
    rotary = LayerRotary(spec)
    rotary.prepare(torch.device("cpu"))
    given = rotary(step(), torch.float32)
    assert given[0] is given[3]
    x = torch.randn(5, 4, 16)
    for ours, rope in ((given[0], FAST), (given[1], SLOW)):
        alone = Rotary(spec, rope)
        alone.prepare(torch.device("cpu"))
        assert torch.equal(ours.apply_rope(x), alone(step(), torch.float32).apply_rope(x))
    assert not torch.allclose(given[0].apply_rope(x)[1:], given[1].apply_rope(x)[1:])


def test_a_model_that_rotates_nothing_gets_the_step_as_it_is() -> None:
    rotary, plain = LayerRotary(config(ropes=(None,) * 4)), step()
    rotary.prepare(torch.device("cpu"))
    assert rotary(plain, torch.float32) == [plain] * 4


def test_scale_and_soft_cap_reach_the_cache() -> None:
    spec = config(scale=0.5, softcap=3.0, windows=(7, None, None, 7))
    seen = CacheLayer(kv_heads=2, head_dim=16, scale=0.5, softcap=3.0)
    assert spec.cache_layers[1] == seen
    assert [layer.window for layer in spec.cache_layers] == [7, None, None, 7]


def test_regimes_of_every_rope_there_is() -> None:
    factors = {"short_factor": (1.0,) * 8, "long_factor": (2.0,) * 8}
    near, far = (RopeConfig(kind="longrope", original_length=length, **factors) for length in (16, 32))
    assert config(ropes=(near, far, None, FAST)).prompt_regimes == (16, 32)
    assert config(ropes=(near, None, None, near)).prompt_regimes == (16,)


def test_a_rope_for_each_layer_or_none_at_all() -> None:
    with pytest.raises(ModelError, match="2 ropes are given for 4 layers"):
        config(ropes=(FAST, SLOW))


@pytest.mark.parametrize("kind", [PreNormBlock, PostNormBlock, SandwichBlock])
def test_where_blocks_norm(kind: Any) -> None:
    """With attention and feed-forward part taken out, what is left is norms and sums."""

    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor, *rest: Any) -> torch.Tensor:
            return 3 * x

    class Block(kind):  # type: ignore[misc]
        def attention(self, config: Any, layer: int) -> torch.nn.Module:
            return Same()

        def feed_forward(self, config: Any, layer: int) -> torch.nn.Module:
            return Same()

    block = filled(Block(config(), 0))
    x = torch.randn(5, 32)
    norms = [norm.weight.double() for name, norm in block.named_children() if "layernorm" in name]

    def normed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-6).sqrt() * weight

    expected, pairs = x.double(), [norms[:2], norms[2:]] if len(norms) == 4 else [norms[:1], norms[1:]]
    for own in pairs:
        part = 3 * (expected if kind is PostNormBlock else normed(expected, own[0]))
        expected = expected + (part if kind is PreNormBlock else normed(part, own[-1]))
    torch.testing.assert_close(block(x, None).double(), expected, rtol=1e-4, atol=1e-4)


def test_what_goes_into_the_first_block_can_be_given() -> None:
    """As images are: `embed` is overridden, and nothing else."""

    class OneMore(torch.nn.Module):
        def __init__(self, config: ModelConfig, layer: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, step: StepContext) -> torch.Tensor:
            return x + 1

    class Model(DecoderModel):
        Block = OneMore
        Norm = LayerNorm

        def embed(self, step: StepContext) -> torch.Tensor:
            return torch.arange(160.0).view(5, 32) ** 2

    model = Model(config(eps=1e-5))
    model.prepare()
    expected = F.layer_norm(torch.arange(160.0).view(5, 32) ** 2 + 4, (32,))
    torch.testing.assert_close(model(step()), expected)
