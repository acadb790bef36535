"""EXAONE 3: a Llama whose config.json and checkpoints have names of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields

# What transformers' ExaoneConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "eos_token_id": 361,
}
# Keys of config.json by the name that other families have for the same thing.
KEYS: Mapping[str, str] = {
    "num_layers": "num_hidden_layers",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation_function": "hidden_act",
}
FIXED: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}


class Model(DecoderModel):
    Block = PreNormBlock


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json."""
    given = {KEYS.get(key, key): value for key, value in raw.items()}
    return ModelConfig(**read_fields({**DEFAULTS, **given, **FIXED}, windows=()))
