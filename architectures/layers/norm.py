"""Norms of activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.loading import Part, Shard, current_shard, weight


class RMSNorm(nn.Module):
    """Divides by the root of the mean square over the last axis; statistics in float32 whatever the input is."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = weight(dim)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SharedRMSNorm(RMSNorm):
    """An RMSNorm of several heads together, [..., heads * head_dim], of which this rank has some."""

    def __init__(self, heads: int, head_dim: int, eps: float, shard: Shard) -> None:
        super().__init__(heads * head_dim, eps)
        self.shared_values = {"weight": Part(heads * head_dim, heads)}
        self.shard = shard

    def forward(self, x: Tensor) -> Tensor:
        squares = self.shard.sum(x.float().square().sum(-1, keepdim=True))
        mean = squares / (x.shape[-1] * self.shard.size)  # a head that several ranks have counts as often
        return (x.float() * torch.rsqrt(mean + self.eps)).to(x.dtype) * self.weight


def heads_norm(heads: int, head_dim: int, eps: float) -> RMSNorm:
    """A norm of several heads together, for the rank that a model is built for."""
    shard = current_shard()
    return RMSNorm(heads * head_dim, eps) if shard is None else SharedRMSNorm(heads, head_dim, eps, shard)


class OffsetRMSNorm(RMSNorm):
    """An RMSNorm whose weight says how far its factors are from 1; all of it in float32."""

    def factors(self) -> Tensor:
        """What the normed entries are multiplied by, [dim] in float32."""
        return self.weight.float() + 1

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.factors(), self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """Takes the mean away and divides by the deviation, in float32; nothing is learnt."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), (self.dim,), eps=self.eps).to(x.dtype)
