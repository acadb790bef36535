"""Llama: pre-norm blocks, rotary positions, grouped queries, gated feed-forward."""

from __future__ import annotations

from torch import Tensor, nn

from maxserve.core.layers import Attention, DecoderModel, GatedMLP, RMSNorm, RotaryBatch
from maxserve.core.model.config import ModelConfig


class Block(nn.Module):
    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.dim, config.eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.dim, config.eps)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, batch: RotaryBatch) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), batch)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Model(DecoderModel):
    Block = Block
