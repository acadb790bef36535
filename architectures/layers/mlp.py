"""The feed-forward part of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.architectures.layers.config import ModelConfig
from maxserve.loading import Linear, Part

_tanh_gelu = partial(F.gelu, approximate="tanh")

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": torch.relu,
}


def gate_up_parts(ffn_dim: int) -> dict[str, Part]:
    """The parts of a fused gate and up."""
    return {"gate_proj": Part(ffn_dim), "up_proj": Part(ffn_dim)}


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one weight."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        parts = gate_up_parts(config.ffn_dim)
        self.gate_up_proj = Linear(config.dim, 2 * config.ffn_dim, bias=config.mlp_bias, role="column", parts=parts)
        self.down_proj = Linear(config.ffn_dim, config.dim, bias=config.mlp_bias, role="row")
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        out: Tensor = self.down_proj(self.activation(gate) * up)
        return out
