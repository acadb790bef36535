"""Gemma 2: norms on both sides of each part, soft caps on scores and logits, windows in every other layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maxserve.architectures.layers import Attention, DecoderModel, OffsetRMSNorm, SandwichBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields, windows_of
from maxserve.architectures.layers.config_keys import number, optional_number, size
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.step_context import StepContext

# What transformers' Gemma2Config has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "sliding_window": 4096,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmaConfig(ModelConfig):
    """With a `logits_softcap`, logits become logits_softcap * tanh(logits / logits_softcap)."""

    logits_softcap: float | None = None


class Block(SandwichBlock):
    Norm = OffsetRMSNorm

    def attention(self, config: GemmaConfig, layer: int) -> Attention:
        return Attention(config, layer)


class Model(DecoderModel):
    Block = Block
    Norm = OffsetRMSNorm
    config: GemmaConfig

    def embed(self, step: StepContext) -> Tensor:
        x = super().embed(step)
        return x * torch.tensor(self.config.dim**0.5, dtype=x.dtype)  # rounded to that type, as in training

    def logits(self, hidden: Tensor) -> Tensor:
        logits, cap = super().logits(hidden), self.config.logits_softcap
        return logits if cap is None else torch.tanh(logits / cap) * cap


def config(raw: Mapping[str, Any]) -> GemmaConfig:
    """The config in `raw`, the content of config.json, with Gemma 2's defaults."""
    given = {**DEFAULTS, **raw}
    layers, kinds = size(given, "num_hidden_layers"), given.get("layer_types")
    if kinds is None:
        kinds = ["full_attention" if i % 2 else "sliding_attention" for i in range(layers)]
    windows = windows_of(kinds, given["sliding_window"], layers)
    return GemmaConfig(**gemma_fields(given, windows=windows, softcap=optional_number(given, "attn_logit_softcapping")))


def gemma_fields(given: Mapping[str, Any], **own: Any) -> dict[str, Any]:
    """The fields of a GemmaConfig, of which the family reads `own` by itself."""
    if given.get("use_bidirectional_attention"):
        raise ModelError(
            "config.json: 'use_bidirectional_attention' is set, so this model makes no text: its tokens see those "
            "after them; use it for embeddings"
        )
    return read_fields(
        given,
        mlp_bias=False,
        activation=given.get("hidden_activation", "gelu_pytorch_tanh"),
        scale=number(given, "query_pre_attn_scalar", 256) ** -0.5,
        logits_softcap=optional_number(given, "final_logit_softcapping"),
        **own,
    )
