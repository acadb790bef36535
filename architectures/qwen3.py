"""Qwen 3, dense: a Llama whose queries and keys are normed per head, with windows in some layers of some sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from maxserve.core.layers import Attention, DecoderModel, GatedMLP, RMSNorm, RotaryBatch
from maxserve.core.model.config import ModelConfig, from_transformers

# What transformers' Qwen3Config has where config.json says nothing, as far as it differs from LlamaConfig.
DEFAULTS: Mapping[str, Any] = {
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 32768,
    "eos_token_id": None,
}


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.eps)
        self.self_attn = Attention(config, layer, qk_norm=True)
        self.post_attention_layernorm = RMSNorm(config.dim, config.eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, batch: RotaryBatch) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), batch)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Model(DecoderModel):
    Block = Block


class EmbeddingModel(Model):
    """The same for embeddings: without the head, which such checkpoints need not have."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        del self.lm_head


def config(raw: Mapping[str, Any]) -> ModelConfig:
    """The config in `raw`, the content of config.json, with Qwen's defaults and its rule for windows."""
    return from_transformers({**DEFAULTS, **raw, "layer_types": _layer_types(raw)})


def _layer_types(raw: Mapping[str, Any]) -> list[str] | None:
    """Which layers have windows: those from `max_window_layers` on, where windows are used at all."""
    if not raw.get("use_sliding_window", False):
        return None
    if raw.get("layer_types") is not None:
        return list(raw["layer_types"])
    first = raw.get("max_window_layers", 28)
    return ["sliding_attention" if i >= first else "full_attention" for i in range(raw.get("num_hidden_layers", 0))]
