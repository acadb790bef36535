"""OLMo 2: what comes out of each part is normed, and queries and keys over all their heads together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PostNormBlock, WholeNormAttention
from maxserve.architectures.layers.config import ModelConfig, read_fields

# What transformers' Olmo2Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 50279,
}


class Block(PostNormBlock):
    def attention(self, config: ModelConfig, layer: int) -> WholeNormAttention:
        return WholeNormAttention(config, layer)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json, with OLMo 2's defaults."""
    return ModelConfig(**read_fields({**DEFAULTS, **raw}, mlp_bias=False, windows=()))
