"""Attention within texts, without a cache. With torch, on any device.

Neighbouring texts of equal length are one call of torch's fused kernel, so a batch whose texts are sorted by length
takes few calls and no padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.interfaces.attention import Index
from maxserve.interfaces.cache import CacheLayer
from maxserve.interfaces.errors import ModelError
from maxserve.interfaces.inputs import StepInputs


@dataclass(frozen=True, slots=True)
class _Group:
    """`texts` neighbouring texts of `length` tokens each; `first` is the row their first token has in the step."""

    first: int
    texts: int
    length: int

    def split(self, x: Tensor) -> Tensor:
        """[T, heads, dim] to those of the group, [texts, heads, length, dim]."""
        rows = x.narrow(0, self.first, self.texts * self.length)
        return rows.view(self.texts, self.length, *x.shape[1:]).transpose(1, 2)


class WithinTexts:
    """A TextAttention. `layers` are the cache layers of a model whose tokens look back; without, they see all.

    ModelError for layers with an `index_top`.
    """

    def __init__(self, layers: tuple[CacheLayer, ...]) -> None:
        if any(layer.index_top for layer in layers):
            raise ModelError("the model's tokens choose what they see, which texts that are encoded whole do not do")
        self._layers = layers
        self._groups: list[_Group] = []

    def begin(self, inputs: StepInputs) -> None:
        """Finds the groups of a step."""
        lengths, starts = inputs.seq_lens, inputs.query_start
        cuts = [0, *(np.flatnonzero(np.diff(lengths)) + 1).tolist(), len(lengths)]
        self._groups = [_Group(int(starts[a]), b - a, int(lengths[a])) for a, b in pairwise(cuts) if b > a]

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: StepInputs,
        sinks: Tensor | None = None,
        index: Index | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        kept = self._layers[layer] if self._layers else None
        share = q.shape[1] // k.shape[1]
        if share > 1:
            k, v = k.repeat_interleave(share, dim=1), v.repeat_interleave(share, dim=1)
        seen = [
            self._look(kept, group, group.split(q), group.split(k), group.split(v), sinks, bias)
            for group in self._groups
        ]
        rows = [part.transpose(1, 2).flatten(0, 1) for part in seen]
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _look(
        self,
        layer: CacheLayer | None,
        group: _Group,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        bias: Tensor | None,
    ) -> Tensor:
        """What queries [texts, heads, length, head_dim] see, [texts, heads, length, value_size]."""
        if bias is not None:
            bias = bias[:, : group.length, : group.length].to(q.dtype)
        if layer is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        scale = layer.score_scale
        if layer.window is None and layer.chunk is None and layer.softcap is None and sinks is None and bias is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        scores = q @ k.transpose(2, 3) * scale
        if layer.softcap is not None:
            scores = torch.tanh(scores / layer.softcap) * layer.softcap
        if bias is not None:
            scores = scores + bias
        scores = scores.masked_fill(_hidden(layer, group.length, q.device), -torch.inf)
        return _weights(scores, sinks).to(v.dtype) @ v


def _hidden(layer: CacheLayer, length: int, device: torch.device) -> Tensor:
    """What a token (a row) does not see of its text (the columns), [length, length]."""
    positions = torch.arange(length, device=device)
    back = positions[:, None] - positions[None, :]
    hidden = back < 0
    if layer.window is not None:
        hidden |= back >= layer.window
    if layer.chunk is not None:
        hidden |= positions[:, None] // layer.chunk != positions[None, :] // layer.chunk
    return hidden


def _weights(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """The softmax, in float32; `sinks` [heads] take part in it."""
    if sinks is None:
        return torch.softmax(scores, -1, torch.float32)
    beside = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, beside), -1), -1, torch.float32)[..., :-1]
