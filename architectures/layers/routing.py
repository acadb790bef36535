"""Choice and weights of the experts of each token. One function per way that families have.

All take the router's logits [T, experts] and compute in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Choice:
    """The experts of each token, [T, top_k] int64, and the weights of what they make, [T, top_k] float32."""

    weights: Tensor
    experts: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertGroups:
    """Experts in `count` groups of equal size, of which a token uses those of the best `top` ones."""

    count: int = 1
    top: int = 1


def softmax_top_k(logits: Tensor, top_k: int, *, normalised: bool, scale: float = 1.0) -> Choice:
    """The likeliest experts of all; `normalised`, their weights sum to 1."""
    weights, experts = logits.softmax(dim=-1, dtype=torch.float32).topk(top_k, dim=-1)
    if normalised:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Choice(weights * scale, experts)


def top_k_softmax(logits: Tensor, top_k: int) -> Choice:
    """The likeliest experts, weighed among themselves: GPT-OSS."""
    values, experts = logits.float().topk(top_k, dim=-1)
    return Choice(values.softmax(dim=-1), experts)


def top_k_sigmoid(logits: Tensor, top_k: int) -> Choice:
    """The likeliest experts, each weighed by itself: Llama 4."""
    values, experts = logits.float().topk(top_k, dim=-1)
    return Choice(values.sigmoid(), experts)


def group_limited_softmax(logits: Tensor, top_k: int, groups: ExpertGroups, *, scale: float = 1.0) -> Choice:
    """The likeliest experts of the groups that have the likeliest ones: DeepSeek-V2, arXiv 2405.04434, 2.1.2."""
    scores = logits.softmax(dim=-1, dtype=torch.float32)
    best = _grouped(scores, groups).amax(dim=-1)
    weights, experts = scores.masked_fill(_outside(best, groups, scores), 0.0).topk(top_k, dim=-1)
    return Choice(weights * scale, experts)


def corrected_sigmoid(
    logits: Tensor, correction: Tensor, top_k: int, groups: ExpertGroups, *, normalised: bool, scale: float = 1.0
) -> Choice:
    """Chosen by score plus `correction` [experts], weighed by score alone: DeepSeek-V3, arXiv 2412.19437, 2.1.2.

    A group is as good as its best two experts together.
    """
    scores = logits.float().sigmoid()
    wanted = scores + correction.float()
    best = _grouped(wanted, groups).topk(2, dim=-1).values.sum(dim=-1)
    experts = wanted.masked_fill(_outside(best, groups, wanted), float("-inf")).topk(top_k, dim=-1).indices
    weights = scores.gather(1, experts)
    if normalised:
        weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
    return Choice(weights * scale, experts)


def _grouped(scores: Tensor, groups: ExpertGroups) -> Tensor:
    return scores.view(len(scores), groups.count, scores.shape[1] // groups.count)


def _outside(best: Tensor, groups: ExpertGroups, scores: Tensor) -> Tensor:
    """Which experts belong to none of the best groups, [T, experts]."""
    chosen = best.topk(groups.top, dim=-1).indices
    outside = torch.ones_like(best, dtype=torch.bool).scatter_(1, chosen, False)
    return outside.repeat_interleave(scores.shape[1] // groups.count, dim=1)
