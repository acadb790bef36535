"""Qwen 2 and 2.5: a Llama whose queries, keys and values have a bias, with windows in some layers of some sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields, windows_of
from maxserve.architectures.layers.config_keys import size

# What transformers' Qwen2Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "eos_token_id": None,
}
FIXED: Mapping[str, Any] = {"attention_bias": True, "mlp_bias": False}


class Model(DecoderModel):
    Block = PreNormBlock


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json, with Qwen's defaults and its rule for windows."""
    given = {**DEFAULTS, **raw, **FIXED}
    return ModelConfig(**read_fields(given, o_bias=False, windows=layer_windows(given)))


def layer_windows(given: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Which layers have windows: those from `max_window_layers` on, where windows are used at all."""
    layers, window = size(given, "num_hidden_layers"), given.get("sliding_window")
    if not given.get("use_sliding_window", False) or window is None:
        return ()
    kinds = given.get("layer_types")
    if kinds is None:
        first = given.get("max_window_layers", 28)
        kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(layers)]
    return windows_of(kinds, size(given, "sliding_window"), layers)
