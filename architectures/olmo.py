"""OLMo: a Llama whose norms have learnt nothing, and whose queries, keys and values may be clipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maxserve.architectures.layers import Attention, DecoderModel, LayerNorm, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields
from maxserve.architectures.layers.config_keys import optional_number

# What transformers' OlmoConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "eos_token_id": 50279,
}
FIXED: Mapping[str, Any] = {"rms_norm_eps": 1e-5, "mlp_bias": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class OlmoConfig(ModelConfig):
    """`clip` bounds the entries of queries, keys and values; None: nothing does."""

    clip: float | None = None


class Block(PreNormBlock):
    Norm = LayerNorm

    def attention(self, config: OlmoConfig, layer: int) -> Attention:
        return Attention(config, layer, clip=config.clip)


class Model(DecoderModel):
    Block = Block
    Norm = LayerNorm


def config(raw: Mapping[str, Any]) -> OlmoConfig:
    """The config in `raw`, the content of config.json, with OLMo's defaults."""
    given = {**DEFAULTS, **raw, **FIXED}
    return OlmoConfig(**read_fields(given, windows=()), clip=optional_number(given, "clip_qkv"))
