"""Attention in its plain form, with everything a CacheLayer can say: the reference for faster ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maxserve.interfaces.attention import Index
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.inputs import Span


def plain_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    layer: CacheLayer,
    sinks: Tensor | None = None,
    bidirectional: Sequence[Span] = (),
    index: Index | None = None,
) -> Tensor:
    """What the last tokens' queries [t, heads, d] see of a sequence's keys [S, kv_heads, d] and values; float64.

    `bidirectional` are spans of positions whose tokens see all of it; `index` is that of the last tokens.
    """
    index_keys = keys[:, 0, keys.shape[-1] - layer.index_dim :].double()
    group = q.shape[1] // keys.shape[1]
    q, keys, values = q.double(), keys.double(), values.double()
    keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
    scores = torch.einsum("thd,shd->hts", q, keys) * layer.score_scale
    if layer.softcap is not None:
        scores = layer.softcap * torch.tanh(scores / layer.softcap)
    hidden = _hidden(len(q), len(keys), layer, bidirectional)
    if index is not None:
        hidden |= _passed_over(Index(index.queries.double(), index.weights.double()), index_keys, hidden, layer)
    scores = scores.masked_fill(hidden, float("-inf"))
    if sinks is not None:
        scores = torch.cat((scores, sinks.double()[:, None, None].expand(-1, len(q), 1)), dim=-1)
    return torch.einsum("hts,shd->thd", scores.softmax(dim=-1)[..., : len(keys)], values)


def _passed_over(index: Index, keys: Tensor, hidden: Tensor, layer: CacheLayer) -> Tensor:
    """Which positions are not among the highest scores, [rows, length]."""
    products = torch.einsum("thd,sd->ths", index.queries, keys).relu()
    scores = torch.einsum("ths,th->ts", products, index.weights).masked_fill(hidden, float("-inf"))
    chosen = scores.topk(min(layer.index_top, len(keys)), dim=-1).indices
    return torch.ones_like(hidden).scatter(-1, chosen, False)


def _hidden(rows: int, length: int, layer: CacheLayer, bidirectional: Sequence[Span]) -> Tensor:
    """Which positions the last `rows` tokens of a sequence do not see, [rows, length]."""
    own, seen = torch.arange(length - rows, length)[:, None], torch.arange(length)
    hidden = seen > own
    for first, last in bidirectional:
        hidden &= ~((own >= first) & (own < last) & (seen >= first) & (seen < last))
    if layer.window is not None:
        hidden |= seen <= own - layer.window
    if layer.chunk is not None:
        hidden |= seen < own // layer.chunk * layer.chunk
    return hidden
