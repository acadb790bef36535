"""How does a model multiply by a weight, and look one up?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def weight(*shape: int) -> nn.Parameter:
    """An uninitialised parameter of a model that is only ever run, never trained."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


class Linear(nn.Module):
    """Multiplies by a weight [outputs, inputs], as checkpoints store it.

    Every projection of every model is one of these, so that how a weight is kept and multiplied is decided here.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = weight(outputs, inputs)
        self.bias = weight(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[1]} -> {self.weight.shape[0]}, bias={self.bias is not None}"


class Embedding(nn.Module):
    """Rows of a table [entries, dim]."""

    def __init__(self, entries: int, dim: int) -> None:
        super().__init__()
        self.weight = weight(entries, dim)

    def forward(self, ids: Tensor) -> Tensor:
        """[tokens] to [tokens, dim]."""
        return F.embedding(ids, self.weight)
