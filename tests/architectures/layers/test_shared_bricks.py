"""Bricks that ranks share give what one rank gives, on every rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.architectures.gpt_oss import clamped_gate
from maxserve.architectures.layers import (
    Attention,
    DecoderModel,
    Embedding,
    Experts,
    GatedMLP,
    LayerRotary,
    Linear,
    PreNormBlock,
    WholeNormAttention,
)
from maxserve.architectures.layers.config import ModelConfig, RopeConfig
from maxserve.architectures.layers.moe import gated
from maxserve.architectures.layers.routing import softmax_top_k
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.shard import Shard, current_shard, shared_by
from maxserve.testing.ranks import in_ranks, take_shares
from maxserve.testing.tiny_cache import TinyCache, make_step

TOKENS, DIM, ODD = 7, 32, 37
CONFIG = ModelConfig(
    vocab_size=ODD,
    dim=DIM,
    layers=1,
    heads=4,
    kv_heads=2,
    head_dim=8,
    ffn_dim=ODD,
    max_length=64,
    attention_bias=True,
    mlp_bias=True,
    rope=RopeConfig(theta=100.0),
)


def filled(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5
    return module


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def check(make: Callable[[], nn.Module], call: Callable[[Any], Tensor], ranks: int) -> None:
    """What every rank gives is what the whole module does, and the same bits as on the others."""
    whole = filled(make())
    parameters = dict(whole.named_parameters(remove_duplicate=False))

    def run(shard: Shard) -> Tensor:
        with shared_by(shard), torch.inference_mode():
            module = make()
            take_shares(module, parameters, shard)
            return call(module)

    with torch.inference_mode():
        due = call(whole)
    found = in_ranks(ranks, run)
    assert all(torch.equal(found[0], other) for other in found[1:])
    assert (found[0] - due).abs().max() <= 1e-5 * due.abs().max()


def attended(config: ModelConfig, module: Attention) -> Tensor:
    """Two steps of two rows."""
    layers = tuple(replace(layer, kv_heads=module.kv_heads) for layer in config.cache_layers)
    cache, x = TinyCache(layers), random(2 * TOKENS, DIM)
    first: Tensor = module(x, make_rotated(config, cache, [(0, range(5)), (2, range(9))]))
    second: Tensor = module(x[:2], make_rotated(config, cache, [(0, range(1)), (2, range(1))]))
    return torch.cat((first, second))


def make_rotated(config: ModelConfig, cache: TinyCache, parts: Any) -> Any:
    rotary = LayerRotary(config)
    rotary.prepare(torch.device("cpu"))
    (step,) = rotary(make_step(cache, parts), torch.float32)
    return step


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_a_row_sums_what_a_column_gives(ranks: int, bias: bool) -> None:
    def make() -> nn.Module:
        return nn.Sequential(
            Linear(DIM, ODD, bias=bias, role="column"), nn.SiLU(), Linear(ODD, DIM, bias=bias, role="row")
        )

    check(make, lambda module: module(random(TOKENS, DIM)), ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_gated_parts_of_an_odd_size(ranks: int) -> None:
    check(lambda: GatedMLP(CONFIG), lambda module: module(random(TOKENS, DIM)), ranks)


@pytest.mark.parametrize(("ranks", "kv_heads"), [(2, 2), (2, 1), (2, 4), (4, 2), (4, 1)])
def test_attention_with_few_heads_of_keys_and_values(ranks: int, kv_heads: int) -> None:
    config = replace(CONFIG, kv_heads=kv_heads)
    check(lambda: Attention(config, 0), partial(attended, config), ranks)


@pytest.mark.parametrize(("ranks", "kv_heads"), [(2, 2), (4, 2)])
def test_norms_over_all_heads(ranks: int, kv_heads: int) -> None:
    config = replace(CONFIG, kv_heads=kv_heads)
    check(lambda: WholeNormAttention(config, 0), partial(attended, config), ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_odd_vocabulary_is_looked_up_exactly(ranks: int) -> None:
    whole = filled(Embedding(ODD, DIM, role="column"))
    ids = torch.arange(ODD).flip(0)

    def run(shard: Shard) -> Tensor:
        with shared_by(shard), torch.inference_mode():
            module = Embedding(ODD, DIM, role="column")
            take_shares(module, dict(whole.named_parameters()), shard)
            found: Tensor = module(ids)
            return found

    assert all(torch.equal(found, whole(ids)) for found in in_ranks(ranks, run))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("tied", [False, True])
def test_logits_of_an_odd_vocabulary(ranks: int, tied: bool) -> None:
    class Model(DecoderModel):
        Block = PreNormBlock

    config = replace(CONFIG, heads=6, kv_heads=6, tied=tied)
    check(lambda: Model(config), lambda module: module.logits(random(TOKENS, DIM)), ranks)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("alternating", [False, True])
def test_experts(ranks: int, alternating: bool) -> None:
    activation = partial(clamped_gate, alpha=1.7, limit=7.0) if alternating else gated(F.silu)

    def call(module: Experts) -> Tensor:
        out: Tensor = module(random(TOKENS, DIM), softmax_top_k(random(TOKENS, 6), 2, normalised=True))
        return out

    inner = ODD + 3 if alternating else ODD  # pairs of gate and up are shared equally
    check(lambda: Experts(6, DIM, inner, activation, bias=True, alternating=alternating), call, ranks)


def test_heads_that_cannot_be_shared_are_named() -> None:
    with shared_by(Shard(rank=0, size=3)), pytest.raises(ModelError, match="4 attention heads, which 3 ranks"):
        Attention(CONFIG, 0)
    with shared_by(Shard(rank=0, size=2)), pytest.raises(ModelError, match="3 heads of keys and values, which 2"):
        Attention(replace(CONFIG, heads=6, kv_heads=3), 0)


def test_what_is_built_after_a_shared_model_is_whole() -> None:
    with shared_by(Shard(rank=0, size=2)):
        assert Linear(4, 4, role="row").sums is not None
        assert Linear(4, 4).shard is None
    assert current_shard() is None
    assert Linear(4, 4, role="row").sums is None


def test_a_rank_keeps_its_heads_of_each_layer() -> None:
    layers = (CacheLayer(kv_heads=4, head_dim=8, window=3), CacheLayer(kv_heads=1, head_dim=8))
    assert [layer.kv_heads for layer in Shard(rank=1, size=2).cache_layers(layers)] == [2, 1]
