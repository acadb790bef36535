"""Attention over one latent vector per token. Multi-head latent attention, arXiv 2405.04434, 2.1.

Keys and values of all heads are products of the latent vector. They are never made: what would multiply the latent
vector multiplies queries before, and outcomes after, so a token keeps and shows the others its latent vector alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.attention import own_heads
from maxserve.architectures.layers.indexer import Indexer
from maxserve.architectures.layers.latent_config import LatentConfig
from maxserve.architectures.layers.norm import RMSNorm
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import Adaptable, BoundLatentCorrection, Linear, Part, Role, current_shard, weight

EPS = 1e-6  # of the norms inside, whatever the model's other norms have


class HeadsFromLatent(Adaptable, nn.Module):
    """What makes keys and values of the latent vector: a weight [heads * (nope_dim + value_dim), kv_rank]."""

    adapter_kind = "latent"
    correction: BoundLatentCorrection | None = None

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        (self.heads, _), self.nope_dim = own_heads(config.heads, 1), config.nope_dim
        self.inputs, self.outputs = config.kv_rank, config.heads * (config.nope_dim + config.value_dim)
        self.role: Role = "column"
        self.shard = current_shard()
        self.parts = {"kv_b_proj": Part(self.outputs, config.heads)}
        self.weight = weight(self.outputs, self.inputs)

    def _parts(self) -> Tensor:
        return self.weight.view(self.heads, -1, self.weight.shape[1])

    def to_latent(self, q: Tensor) -> Tensor:
        """Queries [T, heads, nope_dim] for keys as queries for latent vectors, [T, heads, kv_rank]."""
        out = torch.bmm(q.transpose(0, 1), self._parts()[:, : self.nope_dim]).transpose(0, 1)
        return out if self.correction is None else self.correction.to_latent(q, out)

    def to_values(self, seen: Tensor) -> Tensor:
        """Sums of latent vectors [T, heads, kv_rank] as sums of values, [T, heads, value_dim]."""
        out = torch.bmm(seen.transpose(0, 1), self._parts()[:, self.nope_dim :].transpose(1, 2)).transpose(0, 1)
        return out if self.correction is None else self.correction.to_values(seen, out)


class LatentAttention(nn.Module):
    """Causal attention over latent vectors, under the names that DeepSeek's checkpoints use."""

    def __init__(self, config: LatentConfig, layer: int) -> None:
        super().__init__()
        self.config, self.layer = config, layer
        self.heads, _ = own_heads(config.heads, 1)
        q_size = config.heads * (config.nope_dim + config.rope_dim)
        heads = {"q_proj": Part(q_size, config.heads)}
        if config.q_rank is None:
            self.q_proj = Linear(config.dim, q_size, role="column", parts=heads)
        else:
            self.q_a_proj = Linear(config.dim, config.q_rank, bias=config.attention_bias)
            self.q_a_layernorm = RMSNorm(config.q_rank, EPS)
            self.q_b_proj = Linear(config.q_rank, q_size, role="column", parts=heads)
        kept = config.kv_rank + config.rope_dim
        self.kv_a_proj_with_mqa = Linear(config.dim, kept, bias=config.attention_bias)
        self.kv_a_layernorm = RMSNorm(config.kv_rank, EPS)
        self.kv_b_proj = HeadsFromLatent(config)
        self.indexer = Indexer(config) if config.index_top else None
        self.o_proj = Linear(config.heads * config.value_dim, config.dim, bias=config.o_bias, role="row")

    def forward(self, x: Tensor, step: StepContext) -> Tensor:
        """[T, dim] to [T, dim]."""
        config = self.config
        low = x if config.q_rank is None else self.q_a_layernorm(self.q_a_proj(x))
        queries: Tensor = self._queries(low)
        nope, rope = queries[..., : config.nope_dim], queries[..., config.nope_dim :]
        kept: Tensor = self.kv_a_proj_with_mqa(x)
        latent, key = kept[:, : config.kv_rank], kept[:, config.kv_rank :]
        q = torch.cat((self.kv_b_proj.to_latent(nope), self._apply_rope(rope, step)), dim=-1)
        k = torch.cat((self.kv_a_layernorm(latent)[:, None], self._apply_rope(key[:, None], step)), dim=-1)
        if self.indexer is None:
            seen = step.attend(self.layer, q, k, k[..., : config.kv_rank])
        else:
            found, index = self.indexer(x, low, step)
            q, k = nn.functional.pad(q, (0, config.index_dim)), torch.cat((k, found), dim=-1)
            seen = step.attend(self.layer, q, k, k[..., : config.kv_rank], index=index)
        out: Tensor = self.o_proj(self.kv_b_proj.to_values(seen).flatten(1))
        return out

    def _queries(self, low: Tensor) -> Tensor:
        """[T, heads, nope_dim + rope_dim] of what they are made of, the hidden state or something lower."""
        out: Tensor = self.q_proj(low) if self.config.q_rank is None else self.q_b_proj(low)
        return out.view(low.shape[0], self.heads, self.config.nope_dim + self.config.rope_dim)

    def _apply_rope(self, x: Tensor, step: StepContext) -> Tensor:
        return step.apply_rope(halves(x) if self.config.interleaved else x)


def halves(x: Tensor) -> Tensor:
    """Neighbouring pairs on the last axis as pairs of its halves, which is how `apply_rope` takes them.

    Scores do not change where the entries of queries and of keys are permuted alike.
    """
    return torch.cat((x[..., ::2], x[..., 1::2]), dim=-1)
