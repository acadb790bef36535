"""How does a block let tokens look at each other?"""

from __future__ import annotations

from torch import Tensor, nn

from maxserve.core.layers.linear import Linear
from maxserve.core.layers.norm import RMSNorm
from maxserve.core.layers.rotary import RotaryBatch
from maxserve.core.model.config import ModelConfig


class Attention(nn.Module):
    """Causal attention with rotary positions; query, key and value projections in one weight.

    `qk_norm`: queries and keys are normed per head before they are turned.
    """

    def __init__(self, config: ModelConfig, layer: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        rows = config.heads + 2 * config.kv_heads
        self.qkv_proj = Linear(config.dim, rows * config.head_dim, bias=config.attention_bias)
        self.o_proj = Linear(config.heads * config.head_dim, config.dim, bias=config.o_bias)
        self.q_norm = RMSNorm(config.head_dim, config.eps) if qk_norm else None
        self.k_norm = RMSNorm(config.head_dim, config.eps) if qk_norm else None

    def forward(self, x: Tensor, batch: RotaryBatch) -> Tensor:
        """[T, dim] to [T, dim]."""
        rows: Tensor = self.qkv_proj(x).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        q, k = self._turned(rows[:, : -self.kv_heads], batch)
        seen = batch.attend(self.layer, q, k, rows[:, -self.kv_heads :])
        out: Tensor = self.o_proj(seen.flatten(1))
        return out

    def _turned(self, rows: Tensor, batch: RotaryBatch) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            rows = batch.turn(rows)  # queries and keys in one go
            return rows[:, : self.heads], rows[:, self.heads :]
        return batch.turn(self.q_norm(rows[:, : self.heads])), batch.turn(self.k_norm(rows[:, self.heads :]))
