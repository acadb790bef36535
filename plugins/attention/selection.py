"""Which tokens does a layer with an `index_top` look at? Of what it may see, those that its Index scores highest."""

from __future__ import annotations

import torch
from torch import Tensor

from maxserve.core.computing import Index
from maxserve.core.layers.indexer import index_scores


def chosen_only(
    keys: list[Tensor], values: list[Tensor], index: Index, dim: int, top: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Of runs of keys and values [kv_heads, tokens, …], all of which one token may see, the `top` that it chooses."""
    scores = torch.cat([index_scores(index, run[0, :, run.shape[2] - dim :]) for run in keys], dim=-1)[0]
    chosen = scores.topk(top).indices.sort().values
    starts = [0]
    for run in keys:
        starts.append(starts[-1] + run.shape[1])
    borders = torch.searchsorted(chosen, torch.tensor(starts, device=chosen.device)).tolist()
    picked = [chosen[low:high] - start for start, low, high in zip(starts[:-1], borders[:-1], borders[1:], strict=True)]
    gathered = [
        (run[:, places], seen[:, places]) for run, seen, places in zip(keys, values, picked, strict=True) if len(places)
    ]
    return [run for run, _ in gathered], [seen for _, seen in gathered]


def chosen_mask(mask: Tensor, index: Index, keys: Tensor, top: int) -> Tensor:
    """`mask` [rows, tokens], -inf also where a row does not choose. `keys` [tokens, index_dim] are index keys."""
    scores = index_scores(index, keys) + mask
    chosen = scores.topk(top, dim=-1).indices
    return mask.masked_fill(torch.ones_like(mask, dtype=torch.bool).scatter(-1, chosen, False), float("-inf"))
