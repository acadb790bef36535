"""EXAONE 4: the output of each part is normed, queries and keys per head; hybrids apply rope in window layers only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.architectures.layers import Attention, DecoderModel, PostNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields, windows_of
from maxserve.architectures.layers.config_keys import size
from maxserve.architectures.layers.rope_config import read_rope

# What transformers' Exaone4Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 102400,
    "hidden_size": 4096,
    "intermediate_size": 16384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}
FIXED: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}


class Block(PostNormBlock):
    def attention(self, config: ModelConfig, layer: int) -> Attention:
        return Attention(config, layer, qk_norm=True)


class Model(DecoderModel):
    Block = Block


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json; with a `sliding_window`, layers that see all rotate none."""
    given = {**DEFAULTS, **raw, **FIXED}
    layers, window = size(given, "num_hidden_layers"), given["sliding_window"]
    windows = windows_of(_layer_types(given, layers), window, layers)
    rope = read_rope(given, size(given, "max_position_embeddings", 2048), partial=False)
    ropes = tuple(rope if window is None or own is not None else None for own in windows)
    return ModelConfig(**read_fields(given, rope=rope, ropes=ropes, windows=windows))


def _layer_types(given: Mapping[str, Any], layers: int) -> Sequence[str]:
    """Every so many layers one sees everything; a pattern may also spell them, L for windows and G for none."""
    if given.get("layer_types") is not None:
        kinds: Sequence[str] = given["layer_types"]
        return kinds
    pattern = given["sliding_window_pattern"]
    if given["sliding_window"] is None or not pattern:
        return ["full_attention"] * layers
    if isinstance(pattern, str):
        local = [pattern[i % len(pattern)] == "L" and i < layers - 1 for i in range(layers)]
    else:
        local = [(i + 1) % size(given, "sliding_window_pattern") != 0 for i in range(layers)]
    return ["sliding_attention" if own else "full_attention" for own in local]
