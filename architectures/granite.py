"""Granite: a Llama with multipliers on embeddings, scores, residuals and logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from maxserve.architectures.layers import DecoderModel, PreNormBlock
from maxserve.architectures.layers.config import ModelConfig, read_fields
from maxserve.architectures.layers.config_keys import number
from maxserve.interfaces.step_context import StepContext

# What transformers' GraniteConfig has where config.json says nothing, as far as it is not what every family has.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GraniteConfig(ModelConfig):
    """What embeddings and the results of attention and feed-forward part are multiplied by, and logits divided by."""

    embedding_multiplier: float = 1.0
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


class Block(PreNormBlock):
    def __init__(self, config: GraniteConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.multiplier = config.residual_multiplier

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), step) * self.multiplier
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x)) * self.multiplier
        return out


class Model(DecoderModel):
    Block = Block
    config: GraniteConfig

    def embed(self, step: StepContext) -> Tensor:
        return super().embed(step) * self.config.embedding_multiplier

    def logits(self, hidden: Tensor) -> Tensor:
        return super().logits(hidden) / self.config.logits_scaling


def config(raw: Mapping[str, Any]) -> GraniteConfig:
    """The config in `raw`, the content of config.json, with Granite's defaults."""
    given = {**DEFAULTS, **raw}
    multipliers = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
    own: dict[str, Any] = {key: number(given, key, 1.0) for key in multipliers}
    own["scale"] = number(given, "attention_multiplier", 1.0)
    return GraniteConfig(**read_fields(given, windows=(), **own))
