"""Qwen 3, dense: a Llama whose queries and keys are normed per head, with windows in some layers of some sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import Attention, DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields
from maxserve.architectures.qwen2 import layer_windows

# What transformers' Qwen3Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "eos_token_id": None,
}


class Block(PreNormBlock):
    def attention(self, config: ModelConfig, layer: int) -> Attention:
        return Attention(config, layer, qk_norm=True)


class Model(DecoderModel):
    Block = Block


class EmbeddingModel(Model):
    """The same for embeddings: without the head, which such checkpoints need not have."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.lm_head


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json, with Qwen's defaults and its rule for windows."""
    given = {**DEFAULTS, **raw, "mlp_bias": False}
    return ModelConfig(**read_fields(given, windows=layer_windows(given)))
