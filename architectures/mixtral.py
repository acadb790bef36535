"""Mixtral: a Mistral whose feed-forward parts are mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from maxserve.architectures.layers import DecoderModel, Mixture, PreNormBlock
from maxserve.architectures.layers.config import read_fields
from maxserve.architectures.layers.config_keys import size
from maxserve.architectures.layers.mixture_config import MixtureConfig
from maxserve.architectures.layers.routing import Choice, softmax_top_k

# What transformers' MixtralConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
FIXED: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}


class MixtralMixture(Mixture):
    def choose(self, logits: Tensor) -> Choice:
        return softmax_top_k(logits, self.config.top_k, normalised=True)


class Block(PreNormBlock):
    def feed_forward(self, config: MixtureConfig, layer: int) -> MixtralMixture:
        return MixtralMixture(config)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> MixtureConfig:
    """The config in `raw`, the content of config.json; a `sliding_window` is that of every layer, null means none."""
    given = {**DEFAULTS, **raw, **FIXED}
    window = None if given["sliding_window"] is None else size(given, "sliding_window")
    return MixtureConfig(
        **read_fields(given, windows=(window,) * size(given, "num_hidden_layers")),
        experts=size(given, "num_local_experts"),
        top_k=size(given, "num_experts_per_tok"),
        expert_dim=size(given, "intermediate_size"),
    )
