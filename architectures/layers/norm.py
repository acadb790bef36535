"""Norms of activations."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.loading import weight


class RMSNorm(nn.Module):
    """Divides by the root of the mean square over the last axis; statistics in float32 whatever the input is."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = weight(dim)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


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
