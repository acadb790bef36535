"""Phi 3, 3.5 and 4: a Llama with fused projections in its checkpoints, longrope, and heads rotated in part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields
from maxserve.architectures.layers.config_keys import size
from maxserve.architectures.layers.rope_config import RopeConfig, kind_of, read_rope, table_of
from maxserve.interfaces.errors import ModelError

# What transformers' Phi3Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 32000,
}
FIXED: Mapping[str, Any] = {"attention_bias": False, "mlp_bias": False}
OLD_NAMES = frozenset({"su", "yarn"})  # what longrope was called in Phi's first releases


class Model(DecoderModel):
    Block = PreNormBlock


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json; a `sliding_window` is that of every layer."""
    given = {**DEFAULTS, **raw, **FIXED}
    window = None if given.get("sliding_window") is None else size(given, "sliding_window")
    windows = (window,) * size(given, "num_hidden_layers")
    return ModelConfig(**read_fields(given, rope=_rope(given), windows=windows))


def _rope(given: Mapping[str, Any]) -> RopeConfig:
    table = table_of(given)
    kind = "longrope" if kind_of(table) in OLD_NAMES else kind_of(table)
    if kind not in ("default", "longrope"):
        raise ModelError(f"config.json: rope type {kind!r} is none of Phi 3's, which are default and longrope")
    named = {**given, "rope_scaling": {**table, "rope_type": kind}}
    return read_rope(named, size(given, "max_position_embeddings"), partial=True)
