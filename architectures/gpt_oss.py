"""GPT-OSS: mixtures with biases and a clamped gate, sinks in every head, a window in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from maxserve.architectures.layers import Attention, DecoderModel, Experts, Linear, PreNormBlock
from maxserve.architectures.layers.config import read_fields, windows_of
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.routing import top_k_softmax
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import Part, weight

# What transformers' GptOssConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "sliding_window": 128,
    "attention_bias": True,
    "eos_token_id": None,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
}
ROPE: Mapping[str, Any] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GptOssConfig(MixtureConfig):
    """`gate_alpha` is the factor inside the gate's sigmoid; no entry of gate and up is beyond `gate_limit`."""

    gate_alpha: float
    gate_limit: float

    @property
    def cache_layers(self) -> tuple[CacheLayer, ...]:
        layers = super(GptOssConfig, self).cache_layers  # slots: the short form misses the class
        return tuple(replace(layer, sinks=True) for layer in layers)


class SinkAttention(Attention):
    """Attention some of which goes to no token: each head has a score for that."""

    def __init__(self, config: GptOssConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.sinks = weight(config.heads)
        self.shared_values = {"sinks": Part(config.heads, config.heads)}

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        rows: Tensor = self.qkv_proj(x).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        q, k = self._rotate(rows[:, : -self.kv_heads], step)
        seen = step.attend(self.layer, q, k, rows[:, -self.kv_heads :], self.sinks)
        out: Tensor = self.o_proj(seen.flatten(1))
        return out


class GptOssMixture(nn.Module):
    def __init__(self, config: GptOssConfig) -> None:
        super().__init__()
        self.top_k = config.top_k
        self.router = Linear(config.dim, config.experts, bias=True, roundable=False)
        activation = partial(clamped_gate, alpha=config.gate_alpha, limit=config.gate_limit)
        self.experts = Experts(config.experts, config.dim, config.expert_dim, activation, bias=True, alternating=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.experts(x, top_k_softmax(self.router(x), self.top_k))
        return out


def clamped_gate(gate_up: Tensor, *, alpha: float, limit: float) -> Tensor:
    """(up + 1) * gate * sigmoid(alpha * gate); gate and up lie in turns."""
    gate = gate_up[..., ::2].clamp(max=limit)
    up = gate_up[..., 1::2].clamp(-limit, limit)
    return (up + 1) * gate * (alpha * gate).sigmoid()


class Block(PreNormBlock):
    def attention(self, config: GptOssConfig, layer: int) -> SinkAttention:
        return SinkAttention(config, layer)

    def feed_forward(self, config: GptOssConfig, layer: int) -> GptOssMixture:
        return GptOssMixture(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> GptOssConfig:
    """The config in `raw`, the content of config.json; without `layer_types` every other layer has a window."""
    given = {**DEFAULTS, **raw}
    if given.get("rope_scaling") is None and given.get("rope_parameters") is None:
        given["rope_parameters"] = ROPE
    layers, kinds = size(given, "num_hidden_layers"), given.get("layer_types")
    if kinds is None:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    return GptOssConfig(
        **read_fields(given, windows=windows_of(kinds, given["sliding_window"], layers)),
        experts=size(given, "num_local_experts"),
        top_k=size(given, "num_experts_per_tok"),
        expert_dim=size(given, "intermediate_size"),
        gate_alpha=number(given, "swiglu_alpha", 1.702),
        gate_limit=number(given, "swiglu_limit", 7.0),
    )
