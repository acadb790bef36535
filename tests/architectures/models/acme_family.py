"""A model family as a stranger writes it for `--custom-architectures`: what is written is what is different."""

from torch import nn

from maxserve import Architecture, WeightMap
from maxserve.architectures.layers import Attention, DecoderModel, GatedMLP, RMSNorm


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


WEIGHTS = WeightMap(
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "gate_up_proj": ("gate_proj", "up_proj"),
    }
)
ARCHITECTURES = [Architecture(name="AcmeForCausalLM", build=Model, weights=WEIGHTS)]
