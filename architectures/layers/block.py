"""A layer of a decoder. Attention and a feed-forward part beside one stream, with norms as families have them.

A family overrides `attention` or `feed_forward`, or writes a block of its own.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from maxserve.architectures.layers.attention import Attention
from maxserve.architectures.layers.mlp import GatedMLP
from maxserve.architectures.layers.norm import RMSNorm
from maxserve.interfaces.step_context import StepContext


class _Block(nn.Module):
    """Attention and feed-forward part, under the names checkpoints use."""

    Norm: ClassVar[type[nn.Module]] = RMSNorm

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__()
        self.self_attn = self.attention(config, layer)
        self.mlp = self.feed_forward(config, layer)

    def attention(self, config: Any, layer: int) -> nn.Module:
        """What lets tokens look at each other in a layer."""
        return Attention(config, layer)

    def feed_forward(self, config: Any, layer: int) -> nn.Module:
        """What a layer does to each token by itself."""
        return GatedMLP(config)


class PreNormBlock(_Block):
    """What goes into each part is normed: x + part(norm(x))."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__(config, layer)
        self.input_layernorm = self.Norm(config.dim, config.eps)
        self.post_attention_layernorm = self.Norm(config.dim, config.eps)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), step)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class PostNormBlock(_Block):
    """What comes out of each part is normed: x + norm(part(x))."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__(config, layer)
        self.post_attention_layernorm = self.Norm(config.dim, config.eps)
        self.post_feedforward_layernorm = self.Norm(config.dim, config.eps)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, step))
        out: Tensor = x + self.post_feedforward_layernorm(self.mlp(x))
        return out


class SandwichBlock(_Block):
    """Both: x + norm(part(norm(x)))."""

    def __init__(self, config: Any, layer: int) -> None:
        super().__init__(config, layer)
        self.input_layernorm = self.Norm(config.dim, config.eps)
        self.post_attention_layernorm = self.Norm(config.dim, config.eps)
        self.pre_feedforward_layernorm = self.Norm(config.dim, config.eps)
        self.post_feedforward_layernorm = self.Norm(config.dim, config.eps)

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), step))
        out: Tensor = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return out
