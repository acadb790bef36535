"""Llama 4, text: chunks in layers with positions, none in those without, mixtures with one expert for all tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.architectures.layers import Attention, DecoderModel, Experts, GatedMLP, Linear, PreNormBlock
from maxserve.architectures.layers.config import read_fields
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.mla import halves
from maxserve.architectures.layers.mlp import ACTIVATIONS
from maxserve.architectures.layers.moe import gated
from maxserve.architectures.layers.rope_config import read_rope
from maxserve.architectures.layers.routing import top_k_sigmoid
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.step_context import StepContext

# What transformers' Llama4TextConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 202048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "attention_chunk_size": 8192,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama4Config(MixtureConfig):
    """`chunks` holds, per layer, the size of the pieces of text within which tokens see each other, None for all of it.

    `normed`: queries and keys are normed after rope is applied. In layers without a rope, queries grow by `growth`
    times the logarithm of how many `growth_step` tokens lie behind them, if there is a growth.
    """

    chunks: tuple[int | None, ...]
    normed: bool
    growth: float | None
    growth_step: float

    @property
    def interleaved(self) -> bool:
        """Pairs of rotary entries lie side by side."""
        return True

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        return tuple(CacheLayer(kv_heads=self.kv_heads, head_dim=self.head_dim, chunk=chunk) for chunk in self.chunks)


class Llama4Attention(Attention):
    def __init__(self, config: Llama4Config, layer: int) -> None:
        super().__init__(config, layer)
        self.config = config

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        rows: Tensor = self.qkv_proj(x).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        with_rope, v = rows[:, : -self.kv_heads], rows[:, -self.kv_heads :]
        if self.uses_rope:
            with_rope = step.apply_rope(halves(with_rope))
            if self.config.normed:
                with_rope = F.rms_norm(with_rope, (self.head_dim,), eps=self.config.eps)
        q, k = with_rope[:, : self.heads], with_rope[:, self.heads :]
        if not self.uses_rope and self.config.growth is not None:
            q = (q * self._grown(step.inputs.positions, self.config.growth)).to(x.dtype)
        out: Tensor = self.o_proj(step.attend(self.layer, q, k, v).flatten(1))
        return out

    def _grown(self, positions: Tensor, growth: float) -> Tensor:
        """The factor of each token's queries, [T, 1, 1]: arXiv 2501.19399."""
        passed = ((positions.float() + 1) / self.config.growth_step).floor()
        return (torch.log1p(passed) * growth + 1)[:, None, None]


class Llama4Mixture(nn.Module):
    """A token's choice counts on the way into its experts; one expert more is used by all tokens."""

    def __init__(self, config: Llama4Config) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.router = Linear(config.dim, config.experts, roundable=False)
        activation = gated(ACTIVATIONS[config.activation])
        self.experts = Experts(config.experts, config.dim, config.expert_dim, activation, weighs_input=True)
        self.shared_expert = GatedMLP(replace(config, ffn_dim=config.expert_dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts(x, top_k_sigmoid(self.router(x), self.top_k)) + self.shared_expert(x)
        return out


class Block(PreNormBlock):
    def attention(self, config: Llama4Config, layer: int) -> Llama4Attention:
        return Llama4Attention(config, layer)

    def feed_forward(self, config: Llama4Config, layer: int) -> nn.Module:
        return Llama4Mixture(config) if config.is_sparse(layer) else GatedMLP(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> Llama4Config:
    """The config in `raw`, the content of config.json or the part of it about text, with Llama 4's defaults."""
    given = {**DEFAULTS, **raw, "mlp_bias": False}
    layers = size(given, "num_hidden_layers")
    step, interval = size(given, "interleave_moe_layer_step"), size(given, "no_rope_layer_interval")
    sparse = given.get("moe_layers")
    with_rope = list(given.get("no_rope_layers") or [(i + 1) % interval != 0 for i in range(layers)])  # 1: with a rope
    if len(with_rope) < layers:
        raise ModelError(f"config.json: 'no_rope_layers' has {len(with_rope)} entries for {layers} layers")
    rope = read_rope(given, size(given, "max_position_embeddings"), partial=False)
    return Llama4Config(
        **read_fields({**given, "intermediate_size": given["intermediate_size_mlp"]}, windows=(), rope=rope),
        ropes=tuple(rope if each else None for each in with_rope[:layers]),
        experts=size(given, "num_local_experts"),
        top_k=size(given, "num_experts_per_tok"),
        expert_dim=size(given, "intermediate_size"),
        sparse=tuple(i in sparse if sparse is not None else (i + 1) % step == 0 for i in range(layers)),
        chunks=_chunks(given, with_rope, layers),
        normed=bool(given.get("use_qk_norm", True)),
        growth=number(given, "attn_scale", 0.1) if given.get("attn_temperature_tuning", True) else None,
        growth_step=number(given, "floor_scale", 8192),
    )


def conditional_config(raw: Mapping[str, Any]) -> Llama4Config:
    """The config of the text part of a model that also takes images."""
    text = raw.get("text_config")
    if not isinstance(text, Mapping):
        raise ModelError("config.json has no 'text_config', which says what the text part of the model is like")
    return config(text)


def _chunks(given: Mapping[str, Any], with_rope: Sequence[Any], layers: int) -> tuple[int | None, ...]:
    """Per layer the chunk, by `layer_types` or else in the layers with a rope."""
    chunk, kinds = given["attention_chunk_size"], given.get("layer_types")
    if kinds is None:
        kinds = ["chunked_attention" if each and chunk is not None else "full_attention" for each in with_rope]
    if len(kinds) < layers:
        raise ModelError(f"config.json: 'layer_types' names {len(kinds)} layers of {layers}")
    if unknown := set(kinds) - {"chunked_attention", "full_attention"}:
        raise ModelError(
            f"config.json: layer type {min(unknown)!r} is not known; known: chunked_attention, full_attention"
        )
    return tuple(
        size(given, "attention_chunk_size") if kind == "chunked_attention" else None for kind in kinds[:layers]
    )
