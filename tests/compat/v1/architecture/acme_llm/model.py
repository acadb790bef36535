"""The model: what is written is what is different from other decoders."""

from __future__ import annotations

from torch import nn

from maxserve.layers import Attention, DecoderModel, GatedMLP, RMSNorm


class Block(nn.Module):
    def __init__(self, cfg, layer):
        super().__init__()
        self.input_layernorm = RMSNorm(cfg.dim, cfg.eps)
        self.self_attn = Attention(cfg, layer, qk_norm=True)
        self.post_attention_layernorm = RMSNorm(cfg.dim, cfg.eps)
        self.mlp = GatedMLP(cfg)

    def forward(self, x, step):
        x = x + self.self_attn(self.input_layernorm(x), step)
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(DecoderModel):
    Block = Block
