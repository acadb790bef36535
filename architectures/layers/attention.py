"""Attention of a decoder block."""

from __future__ import annotations

from torch import Tensor, nn

from maxserve.architectures.layers.config import ModelConfig
from maxserve.architectures.layers.norm import RMSNorm, heads_norm
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import Linear, Part, current_shard


class Attention(nn.Module):
    """Causal attention with rotary positions; query, key and value projections in one weight.

    Windows, scale and soft cap are the config's, and so is whether a layer has a rope.
    `qk_norm`: queries and keys are normed per head before they are rotated, by a norm of the kind `norm`. `clip`: no
    entry of queries, keys and values is larger than that, nor smaller than its negative. `inputs`: the width of what it
    gets, where that is not the model's. `heads` and `kv_heads` are those that this rank has.
    """

    def __init__(
        self,
        config: ModelConfig,
        layer: int,
        *,
        qk_norm: bool = False,
        norm: type[nn.Module] = RMSNorm,
        clip: float | None = None,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.kv_heads = own_heads(config.heads, config.kv_heads)
        self.head_dim = config.head_dim
        self.uses_rope = config.layer_ropes[layer] is not None
        self.clip = clip
        rows = config.heads + 2 * config.kv_heads
        self.qkv_proj = Linear(
            inputs or config.dim,
            rows * config.head_dim,
            bias=config.attention_bias,
            role="column",
            parts=heads_of(config.heads, config.kv_heads, config.head_dim),
        )
        self.o_proj = Linear(config.heads * config.head_dim, config.dim, bias=config.o_bias, role="row")
        self.q_norm = norm(config.head_dim, config.eps) if qk_norm else None
        self.k_norm = norm(config.head_dim, config.eps) if qk_norm else None

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """[T, dim] to [T, dim]."""
        rows: Tensor = self.qkv_proj(x).view(x.shape[0], self.heads + 2 * self.kv_heads, self.head_dim)
        if self.clip is not None:
            rows = rows.clamp(-self.clip, self.clip)
        q, k = self._rotate(rows[:, : -self.kv_heads], step)
        seen = step.attend(self.layer, q, k, rows[:, -self.kv_heads :])
        out: Tensor = self.o_proj(seen.flatten(1))
        return out

    def _rotate(self, rows: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        if self.q_norm is None or self.k_norm is None:
            rows = step.apply_rope(rows) if self.uses_rope else rows  # queries and keys in one go
            return rows[:, : self.heads], rows[:, self.heads :]
        q, k = self.q_norm(rows[:, : self.heads]), self.k_norm(rows[:, self.heads :])
        return (step.apply_rope(q), step.apply_rope(k)) if self.uses_rope else (q, k)


def own_heads(heads: int, kv_heads: int) -> tuple[int, int]:
    """How many heads of queries, and of keys and values, the rank has that a model is built for."""
    shard = current_shard()
    return (heads, kv_heads) if shard is None else (shard.heads(heads), shard.kv_heads(kv_heads))


def heads_of(heads: int, kv_heads: int, head_dim: int) -> dict[str, Part]:
    """The parts of fused queries, keys and values, whose heads stay whole."""
    return {
        "q_proj": Part(heads * head_dim, heads),
        "k_proj": Part(kv_heads * head_dim, kv_heads),
        "v_proj": Part(kv_heads * head_dim, kv_heads),
    }


class WholeNormAttention(Attention):
    """Attention whose queries are normed over all heads together, before they are rotated, and keys as well."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = heads_norm(config.heads, config.head_dim, config.eps)
        self.k_norm = heads_norm(config.kv_heads, config.head_dim, config.eps)

    def _rotate(self, rows: Tensor, step: StepContext) -> tuple[Tensor, Tensor]:
        assert self.q_norm is not None
        assert self.k_norm is not None
        q = self.q_norm(rows[:, : self.heads].flatten(1)).view(rows.shape[0], self.heads, self.head_dim)
        k = self.k_norm(rows[:, self.heads :].flatten(1)).view(rows.shape[0], self.kv_heads, self.head_dim)
        return (step.apply_rope(q), step.apply_rope(k)) if self.uses_rope else (q, k)
