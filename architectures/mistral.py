"""Mistral: a Llama all of whose layers may have a window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields
from maxserve.architectures.layers.config_keys import size

# What transformers' MistralConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}
FIXED: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}


class Model(DecoderModel):
    Block = PreNormBlock


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json; a `sliding_window` is that of every layer, null means none."""
    given = {**DEFAULTS, **raw, **FIXED}
    window = None if given["sliding_window"] is None else size(given, "sliding_window")
    return ModelConfig(**read_fields(given, windows=(window,) * size(given, "num_hidden_layers")))
