"""The choice of tokens by an index: of what a token may see, those that score highest."""

from __future__ import annotations

import torch
from torch import Tensor

from maxserve.architectures.layers.indexer import index_scores
from maxserve.interfaces.attention import Index


def chosen(index: Index, keys: Tensor, top: int) -> Tensor:
    """Which tokens, of those with the index keys [tokens, index_dim], a single row chooses, [top]."""
    return index_scores(index, keys)[0].topk(top).indices


def chosen_mask(mask: Tensor, index: Index, keys: Tensor, top: int) -> Tensor:
    """`mask` [rows, tokens], -inf also where a row does not choose."""
    places = (index_scores(index, keys) + mask).topk(top, dim=-1).indices
    return mask.masked_fill(torch.ones_like(mask, dtype=torch.bool).scatter(-1, places, False), float("-inf"))
