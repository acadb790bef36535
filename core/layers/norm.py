"""How are activations brought to one scale?"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from maxserve.core.layers.linear import weight


class RMSNorm(nn.Module):
    """Divides by the root of the mean square over the last axis; statistics in float32 whatever the input is."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = weight(dim)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
