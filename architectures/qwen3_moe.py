"""Qwen 3 MoE: a Qwen 3 most of whose layers are mixtures of many small experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from maxserve.architectures import qwen3
from maxserve.architectures.layers import DecoderModel, GatedMLP, Mixture
from maxserve.architectures.layers.config import read_fields
from maxserve.architectures.layers.config_keys import size
from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.routing import Choice, softmax_top_k

# What transformers' Qwen3MoeConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "eos_token_id": None,
    "num_local_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenMixtureConfig(MixtureConfig):
    """`normalised`: the weights of a token's experts sum to 1."""

    normalised: bool


class QwenMixture(Mixture):
    config: QwenMixtureConfig

    def choose(self, logits: Tensor) -> Choice:
        return softmax_top_k(logits, self.config.top_k, normalised=self.config.normalised)


class Block(qwen3.Block):
    def feed_forward(self, config: QwenMixtureConfig, layer: int) -> nn.Module:
        return QwenMixture(config) if config.is_sparse(layer) else GatedMLP(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> QwenMixtureConfig:
    """The config in `raw`, the content of config.json. Where windows are used, all layers have them."""
    given = {**DEFAULTS, **raw, "mlp_bias": False}
    layers = size(given, "num_hidden_layers")
    window = given["sliding_window"] if given.get("use_sliding_window", False) else None
    step, dense = size(given, "decoder_sparse_step"), given.get("mlp_only_layers") or ()
    return QwenMixtureConfig(
        **read_fields(given, windows=(window,) * layers),
        experts=size(raw, "num_experts", size(given, "num_local_experts")),  # transformers writes the latter
        top_k=size(given, "num_experts_per_tok"),
        expert_dim=size(given, "moe_intermediate_size"),
        normalised=bool(given.get("norm_topk_prob", False)),
        sparse=tuple(i not in dense and (i + 1) % step == 0 for i in range(layers)),
    )
