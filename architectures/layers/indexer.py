"""The index that chooses the tokens worth attending to. DeepSeek's sparse attention, arXiv 2512.02556, 2.1.

The published models rotate queries and keys by one orthogonal matrix and round them to 8 bits, to be fast; products do
not change by the former, so neither is done here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maxserve.architectures.layers.latent_config import LatentConfig
from maxserve.interfaces.attention import Index
from maxserve.interfaces.step_context import StepContext
from maxserve.loading import ExactLinear, Linear

EPS = 1e-6
PRODUCTS = 1 << 24  # made at once, for all index heads: bounds the memory that long sequences take


class Indexer(nn.Module):
    """Makes a key of each token for those after it, and what the token itself looks for."""

    def __init__(self, config: LatentConfig) -> None:
        super().__init__()
        assert config.q_rank is not None
        self.heads, self.dim = config.index_heads, config.index_dim
        self.wq_b = Linear(config.q_rank, self.heads * self.dim)
        self.wk = Linear(config.dim, self.dim)
        self.k_norm = nn.LayerNorm(self.dim, eps=EPS)
        self.weights_proj = ExactLinear(config.dim, self.heads)

    def forward(self, x: Tensor, low: Tensor, step: StepContext) -> tuple[Tensor, Index]:
        """The index keys [T, 1, index_dim] and the Index, of hidden states [T, dim] and what queries come from."""
        key = step.apply_rope(self.k_norm(self.wk(x))[:, None])
        queries = step.apply_rope(self.wq_b(low).view(-1, self.heads, self.dim))
        weights = self.weights_proj(x) * (self.heads * self.dim) ** -0.5
        return key, Index(queries.float(), weights)


def index_scores(index: Index, keys: Tensor) -> Tensor:
    """How much each of the tokens with index keys [S, index_dim] is looked for, [T, S] in float32."""
    queries, weights = index.queries.float(), index.weights.float()
    parts = torch.split(keys, max(1, PRODUCTS // weights.numel()))
    scores = [_scores(queries, weights, part.float()) for part in parts]
    return scores[0] if len(scores) == 1 else torch.cat(scores, dim=-1)


def _scores(queries: Tensor, weights: Tensor, keys: Tensor) -> Tensor:
    products = (queries.flatten(0, 1) @ keys.T).relu_().view(*weights.shape, len(keys))
    return (weights[:, None] @ products)[:, 0]
