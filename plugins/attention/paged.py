"""Attention over pages with torch alone.

The keys of a sequence are never copied while they lie in a few runs of neighbouring pages: a run is a view of the
storage. One new token (decoding) is two small matrix products per run, with the query heads of a group as rows and one
softmax over all runs. Several new tokens (prefill) go through torch's fused kernel, in blocks of rows, over the only
run or, when there are more, over a copy of that one sequence. Each sequence is a call of its own, so that on a CPU its
numbers do not depend, to the bit, on the others of the step.

Where keys and values are stored in another form than that of queries, whatever it is, those of DECODED positions at a
time are decoded, with a running softmax for several new tokens: there is never a copy of a sequence, but for layers
with an index. Blocks begin at positions, so numbers do not depend on where pages lie. It costs time: keep the cache in
the model's dtype where speed matters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.interfaces.attention import AttentionContext, Index
from maxserve.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheLayer, KVLayer, PlainFormat
from maxserve.interfaces.errors import Unavailable
from maxserve.interfaces.inputs import StepInputs
from maxserve.plugins.attention.formats import read, write
from maxserve.plugins.attention.mask import CausalMask, with_spans
from maxserve.plugins.attention.plan import Share, Sight, shares
from maxserve.plugins.attention.selection import chosen, chosen_mask

BLOCK = 256  # query rows a call of the fused kernel gets: bounds the mask, and skips what is masked for whole blocks
OWN_BLOCK = 64  # the same where scores are made here, which the fused kernel does without
DECODED = 512  # positions whose keys and values are decoded at once, where they are stored in another form
MAX_RUNS = 8  # above this, copying the sequence is cheaper than a call per run


class PagedAttention:
    """An Attention over the storage in its context."""

    def __init__(self, context: AttentionContext) -> None:
        self.page_size = context.page_size
        factors = context.factors or (None,) * len(context.layers)
        self.layers = [
            _Layer(layer, stored, context.format or PlainFormat(stored.keys.dtype), own)
            for layer, stored, own in zip(context.layers, context.storage, factors, strict=True)
        ]
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
        if stored.key_factors is not None:
            grouped = (grouped * stored.key_factors.unsqueeze(-1)).to(q.dtype)
        rule = Scoring(stored.scale, stored.softcap, None if sinks is None else sinks.view(k.shape[1], -1))
        seen = [
            piece for part in self.plans[stored.sight] for piece in self._pieces(part, stored, grouped, rule, index)
        ]
        out = seen[0] if len(seen) == 1 else torch.cat(seen)
        if stored.value_factors is not None:
            out = (out * stored.value_factors.unsqueeze(-1)).to(q.dtype)
        return out.view(*q.shape[:2], v.shape[2])

    def _pieces(self, part: _Part, stored: _Layer, q: Tensor, rule: Scoring, index: Index | None) -> Iterator[Tensor]:
        """What each block of a sequence's rows sees, [rows, kv_heads, group, value_size]."""
        share, sight = part.share, stored.sight
        if index is not None:
            own = slice(share.first, share.first + share.rows)
            index = index.of(own) if share.length - share.low > stored.index_top else None
        coded = stored.coded(q.dtype) and not stored.index_top
        if share.rows == 1:
            yield decode(q[share.first], *part.seen(stored, index, q.dtype, coded=coded), rule)[None]
            return
        keys, values = ([], []) if coded else part.views(stored, q.dtype)
        before = share.length - share.rows
        for position, rows in _blocks(before, share.length, BLOCK if rule.plain else OWN_BLOCK, sight.chunk):
            low, high = max(share.low, sight.low(position)), position + rows
            if share.bidirectional and stored.bidirectional:
                high = max(high, *(last for first, last in share.bidirectional if first < high), high)
                mask = with_spans(range(position, position + rows), range(low, high), sight, share.bidirectional, q)
            else:
                mask = self.masks[sight].slice(rows, position - low, q.dtype)
            span = slice(low - share.low, high - share.low)
            first = share.first + position - before
            if coded:
                yield prefill_coded(q[first : first + rows], stored.blocks(part.slots()[span], q.dtype), mask, rule)
                continue
            if index is not None and high - low > stored.index_top:
                looking = index.of(slice(position - before, position - before + rows))
                mask = chosen_mask(mask, looking, keys[0][0, span, stored.index_start :], stored.index_top)
            yield prefill(q[first : first + rows], keys[0][:, span], values[0][:, span], mask, rule)


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
        scores = self.bounded(scores, mask)
        if self.sinks is None:
            return torch.softmax(scores, -1, torch.float32)
        shape = self.sinks.shape + (1,) * (scores.dim() - 2)
        sinks = self.sinks.to(scores.dtype).view(shape).expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat((scores, sinks), -1), -1, torch.float32)[..., :-1]

    def bounded(self, scores: Tensor, mask: Tensor | None) -> Tensor:
        """What goes into the softmax."""
        if self.softcap is not None:
            scores = torch.tanh(scores / self.softcap) * self.softcap
        return scores if mask is None else scores + mask


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
        if self.scattered or stored.coded(dtype):
            keys, values = stored.copied(self.slots(), dtype)
            return [keys], [values]
        runs = self.share.runs
        keys_by_run = [stored.keys.narrow(1, slot, tokens) for slot, tokens in runs]
        return keys_by_run, [stored.values.narrow(1, slot, tokens) for slot, tokens in runs]

    def seen(
        self, stored: _Layer, index: Index | None, dtype: torch.dtype, *, coded: bool
    ) -> tuple[Iterable[Tensor], Iterable[Tensor]]:
        """Keys and values that the only row of the share looks at, in pieces."""
        if coded:
            return stored.keys_of(self.slots(), dtype), stored.values_of(self.slots(), dtype)
        return self.views(stored, dtype) if index is None else self.chosen(stored, index, dtype)

    def chosen(self, stored: _Layer, index: Index, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """As `views`, of what the only row of the share chooses: of the others nothing but the index keys is read."""
        places = chosen(index, self._index_keys(stored), stored.index_top)
        keys, values = stored.copied(self.slots()[places], dtype)
        return [keys], [values]

    def _index_keys(self, stored: _Layer) -> Tensor:
        """Those of the sequence, [tokens, index_dim]."""
        kept = stored.key_slots[:, 0, stored.index_start :]
        if self.scattered:
            return read(kept, self.slots())
        return torch.cat([kept.narrow(0, slot, tokens).float() for slot, tokens in self.share.runs])


class _Layer:
    """A layer's rules, and views of its storage: by slot to write, by head to read."""

    __slots__ = (
        *("bidirectional", "index_start", "index_top", "inside", "scale", "sight", "softcap", "value_size"),
        *("format", "key_factors", "key_scales", "key_slots", "keys"),
        *("value_factors", "value_scales", "value_slots", "values"),
    )

    def __init__(
        self, layer: CacheLayer, stored: KVLayer, format: BuiltCacheFormat, factors: CacheFactors | None
    ) -> None:
        if layer.index_top and format.scale_dtype is not None:
            raise Unavailable("torch's attention chooses tokens by index keys that have no scales beside them")
        self.format, self.value_size = format, layer.value_size
        self.key_factors = self.value_factors = None
        if factors is not None:
            keys, values = (each.to(stored.keys.device).unsqueeze(-1) for each in (factors.keys, factors.values))
            self.key_factors, self.value_factors = keys, keys if layer.values_in_keys else values
        self.key_scales, self.value_scales = (
            None if scales is None else scales.flatten(0, 1) for scales in (stored.key_scales, stored.value_scales)
        )
        self.sight, self.scale, self.softcap = Sight.of(layer), layer.score_scale, layer.softcap
        self.inside, self.bidirectional = layer.values_in_keys, layer.bidirectional
        self.index_start, self.index_top = layer.head_dim - layer.index_dim, layer.index_top
        self.key_slots, self.value_slots = stored.keys.flatten(0, 1), stored.values.flatten(0, 1)
        self.keys, self.values = self.key_slots.transpose(0, 1), self.value_slots.transpose(0, 1)

    def coded(self, dtype: torch.dtype) -> bool:
        """Whether what is stored are no numbers of that type."""
        return not isinstance(self.format, PlainFormat) or self.format.dtype is not dtype

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        self._write(slots, k, self.key_factors, self.key_slots, self.key_scales)
        if not self.inside:
            self._write(slots, v, self.value_factors, self.value_slots, self.value_scales)

    def _write(
        self, slots: Tensor, x: Tensor, factors: Tensor | None, storage: Tensor, stored_scales: Tensor | None
    ) -> None:
        codes, scales = self.format.encode(x if factors is None else x / factors)
        write(storage, slots, codes)
        if stored_scales is not None and scales is not None:
            write(stored_scales, slots, scales)

    def copied(self, slots: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of those slots, each [kv_heads, slots, head_dim], as they are but for factors."""
        keys = self._decoded(self.key_slots, self.key_scales, slots, dtype)
        return keys, keys[..., : self.value_size] if self.inside else self._values(slots, dtype)

    def keys_of(self, slots: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """The keys of those slots, as `copied` has them, DECODED at a time."""
        return (self._decoded(self.key_slots, self.key_scales, some, dtype) for some in torch.split(slots, DECODED))

    def values_of(self, slots: Tensor, dtype: torch.dtype) -> Iterator[Tensor]:
        """The values of those slots, DECODED at a time."""
        if self.inside:
            return (keys[..., : self.value_size] for keys in self.keys_of(slots, dtype))
        return (self._values(some, dtype) for some in torch.split(slots, DECODED))

    def blocks(self, slots: Tensor, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        """Keys and values of those slots, DECODED at a time."""
        return (self.copied(some, dtype) for some in torch.split(slots, DECODED))

    def _values(self, slots: Tensor, dtype: torch.dtype) -> Tensor:
        return self._decoded(self.value_slots, self.value_scales, slots, dtype)

    def _decoded(self, storage: Tensor, scales: Tensor | None, slots: Tensor, dtype: torch.dtype) -> Tensor:
        codes = read(storage, slots)
        if isinstance(self.format, PlainFormat):
            return codes.to(dtype).transpose(0, 1)
        return self.format.decode(codes, None if scales is None else read(scales, slots)).to(dtype).transpose(0, 1)


def decode(q: Tensor, keys: Iterable[Tensor], values: Iterable[Tensor], rule: Scoring) -> Tensor:
    """What one token's queries [kv_heads, group, head_dim] see of all runs; the softmax is in float32."""
    q = q * rule.scale
    scores = [torch.bmm(q, run.transpose(1, 2)) for run in keys]
    weights = rule.weights(scores[0] if len(scores) == 1 else torch.cat(scores, -1)).to(q.dtype)
    out, start = None, 0
    for run in values:
        own = weights.narrow(2, start, run.shape[1])
        out = torch.bmm(own, run) if out is None else out.baddbmm_(own, run)
        start += run.shape[1]
    assert out is not None, "a token sees itself at least"
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


def prefill_coded(q: Tensor, blocks: Iterable[tuple[Tensor, Tensor]], mask: Tensor, rule: Scoring) -> Tensor:
    """As `prefill`, where keys and values come in blocks: a running softmax, with sums in float32."""
    rows, kv_heads, group, head_dim = q.shape
    queries = (q.permute(1, 2, 0, 3) * rule.scale).reshape(kv_heads, group * rows, head_dim)
    if rule.sinks is None:
        peak = q.new_full((kv_heads, group, rows, 1), float("-inf"), dtype=torch.float32)
    else:
        peak = rule.sinks.float()[..., None, None].expand(kv_heads, group, rows, 1)
    total = torch.zeros_like(peak) if rule.sinks is None else torch.ones_like(peak)
    out, start = torch.zeros((), device=q.device), 0
    for keys, values in blocks:
        scores = torch.bmm(queries, keys.transpose(1, 2)).float().view(kv_heads, group, rows, -1)
        scores = rule.bounded(scores, mask[:, start : start + keys.shape[1]])
        highest = torch.maximum(peak, scores.amax(-1, keepdim=True))
        base = highest.masked_fill(highest == float("-inf"), 0.0)  # where nothing has been seen yet
        weights, factor = torch.exp(scores - base), torch.exp(peak - base)
        seen = torch.bmm(weights.to(q.dtype).flatten(1, 2), values).float().view(kv_heads, group, rows, -1)
        out, total, peak = out * factor + seen, total * factor + weights.sum(-1, keepdim=True), highest
        start += keys.shape[1]
    return (out / total).to(q.dtype).permute(2, 0, 1, 3)
