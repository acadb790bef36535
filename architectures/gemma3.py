"""Gemma 3, text: a Gemma 2 whose queries and keys are normed, with a rope of its own for layers with windows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maxserve.architectures import gemma2
from maxserve.architectures.gemma2 import GemmaConfig, gemma_fields
from maxserve.architectures.layers import Attention, OffsetRMSNorm
from maxserve.architectures.layers.config import ModelConfig, windows_of
from maxserve.architectures.layers.config_keys import number, size
from maxserve.architectures.layers.rope_config import read_ropes

# What transformers' Gemma3TextConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
}


class Block(gemma2.Block):
    def attention(self, config: ModelConfig, layer: int) -> Attention:
        return Attention(config, layer, qk_norm=True, norm=OffsetRMSNorm)


class Model(gemma2.Model):
    Block = Block


def config(raw: Mapping[str, Any]) -> GemmaConfig:
    """The config in `raw`, the content of config.json or the part of it about text, with Gemma 3's defaults.

    Scores have no soft cap, whatever `attn_logit_softcapping` says: no Gemma 3 was trained with one.
    """
    given = {**DEFAULTS, **raw}
    layers, kinds = size(given, "num_hidden_layers"), given.get("layer_types")
    if kinds is None:
        pattern = size(given, "sliding_window_pattern")
        kinds = ["sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(layers)]
    thetas = {
        "full_attention": number(given, "rope_theta", 1e6),
        "sliding_attention": number(given, "rope_local_base_freq", 1e4),
    }
    ropes = read_ropes(given, size(given, "max_position_embeddings"), thetas)
    windows = windows_of(kinds, given["sliding_window"], layers)
    return GemmaConfig(
        **gemma_fields(
            given,
            windows=windows,
            rope=ropes["full_attention"],
            ropes=tuple(ropes[kind] for kind in kinds[:layers]),
        )
    )
