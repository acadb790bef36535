"""Llama: pre-norm blocks, rotary positions, grouped queries, gated feed-forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields

# What transformers' LlamaConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


class Model(DecoderModel):
    Block = PreNormBlock


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json. Windows are left over from other families: Llama has none."""
    return ModelConfig(**read_fields({**DEFAULTS, **raw}, windows=()))
