"""Attention over pages with torch alone.

The keys of a sequence are never copied while they lie in a few runs of neighbouring pages: a run is a view of the
storage. One new token (decoding) is two small matrix products per run, with the query heads of a group as rows and one
softmax over all runs. Several new tokens (prefill) go through torch's fused kernel, in blocks of rows, over the only
run or, when there are more, over a copy of that one sequence. Each sequence is a call of its own, so that on a CPU its
numbers do not depend, to the bit, on the others of the step.

Where storage and queries differ in dtype, a sequence's keys and values are cast in every layer of every step: right,
but it costs a copy of them; keep the cache in the model's dtype where speed matters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.interfaces.attention import AttentionContext, Index
from maxserve.interfaces.cache import CacheLayer, KVLayer
from maxserve.interfaces.inputs import StepInputs
from maxserve.plugins.attention.formats import read, write
from maxserve.plugins.attention.mask import CausalMask, with_spans
from maxserve.plugins.attention.plan import Share, Sight, shares
from maxserve.plugins.attention.selection import chosen, chosen_mask

BLOCK = 256  # query rows a call of the fused kernel gets: bounds the mask, and skips what is masked for whole blocks
OWN_BLOCK = 64  # the same where scores are made here, which the fused kernel does without
MAX_RUNS = 8  # above this, copying the sequence is cheaper than a call per run


class PagedAttention:
    """An Attention over the storage in its context."""

    def __init__(self, context: AttentionContext) -> None:
        self.page_size = context.page_size
        self.layers = [_Layer(layer, stored) for layer, stored in zip(context.layers, context.storage, strict=True)]
        self.masks = {layer.sight: CausalMask(BLOCK, layer.sight.window, context.device) for layer in self.layers}
        self.device = context.device
        self.plans: dict[Sight, list[_Part]] = {}

    def begin(self, inputs: StepInputs) -> None:
        """Plans the step once per kind of sight."""
        self.plans = {
            sight: [_Part(share, self.device) for share in shares(inputs, self.page_size, sight)]
            for sight in self.masks
        }

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        inputs: StepInputs,
        sinks: Tensor | None = None,
        index: Index | None = None,
    ) -> Tensor:
        stored = self.layers[layer]
        stored.write(inputs.slot_mapping, k, v)
        grouped = q.view(len(q), k.shape[1], -1, q.shape[2])  # [T, kv_heads, group, head_dim]
        rule = Scoring(stored.scale, stored.softcap, None if sinks is None else sinks.view(k.shape[1], -1))
        seen = [
            piece for part in self.plans[stored.sight] for piece in self._pieces(part, stored, grouped, rule, index)
        ]
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).view(*q.shape[:2], v.shape[2])

    def _pieces(self, part: _Part, stored: _Layer, q: Tensor, rule: Scoring, index: Index | None) -> Iterator[Tensor]:
        """What each block of a sequence's rows sees, [rows, kv_heads, group, value_size]."""
        share, sight = part.share, stored.sight
        if index is not None:
            own = slice(share.first, share.first + share.rows)
            index = index.of(own) if share.length - share.low > stored.index_top else None
        if share.rows == 1:
            keys, values = part.views(stored, q.dtype) if index is None else part.chosen(stored, index, q.dtype)
            yield decode(q[share.first], keys, values, rule)[None]
            return
        keys, values = part.views(stored, q.dtype)
        before = share.length - share.rows
        for position, rows in _blocks(before, share.length, BLOCK if rule.plain else OWN_BLOCK, sight.chunk):
            low, high = max(share.low, sight.low(position)), position + rows
            if share.bidirectional and stored.bidirectional:
                high = max(high, *(last for first, last in share.bidirectional if first < high), high)
                mask = with_spans(range(position, position + rows), range(low, high), sight, share.bidirectional, q)
            else:
                mask = self.masks[sight].slice(rows, position - low, q.dtype)
            seen = slice(low - share.low, high - share.low)
            first = share.first + position - before
            if index is not None and high - low > stored.index_top:
                looking = index.of(slice(position - before, position - before + rows))
                mask = chosen_mask(mask, looking, keys[0][0, seen, stored.index_start :], stored.index_top)
            yield prefill(q[first : first + rows], keys[0][:, seen], values[0][:, seen], mask, rule)


def _blocks(start: int, end: int, most: int, chunk: int | None) -> Iterator[tuple[int, int]]:
    """Positions `start` … `end` - 1 as (first, rows) of blocks that no border between chunks cuts."""
    while start < end:
        border = end if chunk is None else (start // chunk + 1) * chunk
        rows = min(most, end - start, border - start)
        yield start, rows
        start += rows


@dataclass(frozen=True, slots=True)
class Scoring:
    """What becomes of the product of a query and a key: times `scale`, then capped; `sinks` [kv_heads, group] join."""

    scale: float
    softcap: float | None = None
    sinks: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether it is what torch's fused kernel does."""
        return self.softcap is None and self.sinks is None

    def weights(self, scores: Tensor, mask: Tensor | None = None) -> Tensor:
        """The softmax, in float32, of `scores` [kv_heads, group, …, seen], scaled already."""
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        if mask is not None:
            scores = scores + mask
        if self.sinks is None:
            return torch.softmax(scores, -1, torch.float32)
        shape = self.sinks.shape + (1,) * (scores.dim() - 2)
        sinks = self.sinks.to(scores.dtype).view(shape).expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat((scores, sinks), -1), -1, torch.float32)[..., :-1]


class _Part:
    """A share, with its slots on the device where its keys have to be copied together, or chosen among."""

    __slots__ = ("_device", "_slots", "scattered", "share")

    def __init__(self, share: Share, device: torch.device) -> None:
        self.share, self._device = share, device
        self.scattered = len(share.runs) > (MAX_RUNS if share.rows == 1 else 1)
        self._slots: Tensor | None = None
        if self.scattered:
            self.slots()

    def slots(self) -> Tensor:
        """The slot of every position looked at; made once a step."""
        if self._slots is None:
            self._slots = torch.from_numpy(self.share.slots()).to(self._device)
        return self._slots

    def views(self, stored: _Layer, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the sequence by run, each [kv_heads, tokens, head_dim] of `dtype`."""
        if self.scattered:
            keys, values = stored.copied(self.slots())
            return [keys.to(dtype)], [values.to(dtype)]
        runs = self.share.runs
        keys_by_run = [stored.keys.narrow(1, slot, tokens).to(dtype) for slot, tokens in runs]
        return keys_by_run, [stored.values.narrow(1, slot, tokens).to(dtype) for slot, tokens in runs]

    def chosen(self, stored: _Layer, index: Index, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """As `views`, of what the only row of the share chooses: of the others nothing but the index keys is read."""
        places = chosen(index, self._index_keys(stored), stored.index_top)
        keys, values = stored.copied(self.slots()[places])
        return [keys.to(dtype)], [values.to(dtype)]

    def _index_keys(self, stored: _Layer) -> Tensor:
        """Those of the sequence, [tokens, index_dim]."""
        kept = stored.key_slots[:, 0, stored.index_start :]
        if self.scattered:
            return read(kept, self.slots())
        return torch.cat([kept.narrow(0, slot, tokens).float() for slot, tokens in self.share.runs])


class _Layer:
    """A layer's rules, and views of its storage: by slot to write, by head to read."""

    __slots__ = (
        "index_start",
        "index_top",
        "inside",
        "key_slots",
        "keys",
        "scale",
        "sight",
        "softcap",
        "bidirectional",
        "value_slots",
        "values",
    )

    def __init__(self, layer: CacheLayer, stored: KVLayer) -> None:
        self.sight, self.scale, self.softcap = Sight.of(layer), layer.score_scale, layer.softcap
        self.inside, self.bidirectional = layer.values_in_keys, layer.bidirectional
        self.index_start, self.index_top = layer.head_dim - layer.index_dim, layer.index_top
        self.key_slots, self.value_slots = stored.keys.flatten(0, 1), stored.values.flatten(0, 1)
        self.keys, self.values = self.key_slots.transpose(0, 1), self.value_slots.transpose(0, 1)

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        write(self.key_slots, slots, k)
        if not self.inside:
            write(self.value_slots, slots, v)

    def copied(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of those slots, each [kv_heads, slots, head_dim]."""
        return read(self.key_slots, slots).transpose(0, 1), read(self.value_slots, slots).transpose(0, 1)


def decode(q: Tensor, keys: list[Tensor], values: list[Tensor], rule: Scoring) -> Tensor:
    """What one token's queries [kv_heads, group, head_dim] see of all runs; the softmax is in float32."""
    q = q * rule.scale
    scores = [torch.bmm(q, run.transpose(1, 2)) for run in keys]
    weights = rule.weights(scores[0] if len(scores) == 1 else torch.cat(scores, -1)).to(q.dtype)
    if len(values) == 1:
        return torch.bmm(weights, values[0])
    out, start = q.new_zeros(*q.shape[:2], values[0].shape[2]), 0
    for run in values:
        out.baddbmm_(weights.narrow(2, start, run.shape[1]), run)
        start += run.shape[1]
    return out


def prefill(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, rule: Scoring) -> Tensor:
    """What queries [rows, kv_heads, group, head_dim] see; keys are shared by a group without being repeated."""
    _, kv_heads, group, head_dim = q.shape
    shape = (kv_heads, group, keys.shape[1])
    q = q.permute(1, 2, 0, 3)
    keys, values = keys[:, None].expand(*shape, head_dim), values[:, None].expand(*shape, values.shape[-1])
    if rule.plain:
        seen = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask, scale=rule.scale)
    else:
        seen = rule.weights(q @ keys.transpose(2, 3) * rule.scale, mask).to(q.dtype) @ values
    return seen.permute(2, 0, 1, 3)
