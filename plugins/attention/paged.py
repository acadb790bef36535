"""How is attention computed over pages with torch alone?

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

import torch
from torch import Tensor
from torch.nn import functional as F

from maxserve.core.computing import AttentionContext
from maxserve.core.nouns import Batch, KVLayer
from maxserve.plugins.attention.formats import read, write
from maxserve.plugins.attention.mask import CausalMask
from maxserve.plugins.attention.plan import Share, shares

BLOCK = 256  # query rows a call of the fused kernel gets: bounds the mask, and skips what is masked for whole blocks
MAX_RUNS = 8  # above this, copying the sequence is cheaper than a call per run


class PagedAttention:
    """An Attention over the storage in its context."""

    def __init__(self, context: AttentionContext) -> None:
        self.page_size = context.page_size
        self.layers = [_Layer(stored) for stored in context.storage]
        self.windows = [layer.window for layer in context.layers]
        self.masks = {window: CausalMask(BLOCK, window, context.device) for window in set(self.windows)}
        self.device = context.device
        self.plans: dict[int | None, list[_Part]] = {}

    def begin(self, batch: Batch) -> None:
        """Plans the step once per kind of window."""
        self.plans = {
            window: [_Part(share, self.device) for share in shares(batch, self.page_size, window)]
            for window in self.masks
        }

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, batch: Batch) -> Tensor:
        stored, window = self.layers[layer], self.windows[layer]
        stored.write(batch.slots, k, v)
        grouped = q.view(len(q), k.shape[1], -1, q.shape[2])  # [T, kv_heads, group, head_dim]
        seen = [piece for part in self.plans[window] for piece in self._pieces(part, stored, grouped, window)]
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).view_as(q)

    def _pieces(self, part: _Part, stored: _Layer, q: Tensor, window: int | None) -> Iterator[Tensor]:
        """What each block of a sequence's rows sees, [rows, kv_heads, group, head_dim]."""
        share = part.share
        keys, values = part.views(stored, q.dtype)
        if share.rows == 1:
            yield decode(q[share.first], keys, values)[None]
            return
        for row in range(0, share.rows, BLOCK):
            rows = min(BLOCK, share.rows - row)
            position = share.length - share.rows + row
            low = share.low if window is None else max(share.low, position - window + 1)
            mask = self.masks[window].slice(rows, position - low, q.dtype)
            seen = slice(low - share.low, position + rows - share.low)
            block = q[share.first + row : share.first + row + rows]
            yield prefill(block, keys[0][:, seen], values[0][:, seen], mask)


class _Part:
    """A share, with the index of its slots on the device where its keys have to be copied together."""

    __slots__ = ("index", "share")

    def __init__(self, share: Share, device: torch.device) -> None:
        self.share = share
        scattered = len(share.runs) > (MAX_RUNS if share.rows == 1 else 1)
        self.index = torch.from_numpy(share.slots()).to(device) if scattered else None

    def views(self, stored: _Layer, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of the sequence by run, each [kv_heads, tokens, head_dim] of `dtype`."""
        if self.index is not None:
            keys, values = stored.copied(self.index)
            return [keys.to(dtype)], [values.to(dtype)]
        runs = self.share.runs
        keys_by_run = [stored.keys.narrow(1, slot, tokens).to(dtype) for slot, tokens in runs]
        return keys_by_run, [stored.values.narrow(1, slot, tokens).to(dtype) for slot, tokens in runs]


class _Layer:
    """Views of a layer's storage: by slot to write, by head to read."""

    __slots__ = ("key_slots", "keys", "value_slots", "values")

    def __init__(self, stored: KVLayer) -> None:
        self.key_slots, self.value_slots = stored.keys.flatten(0, 1), stored.values.flatten(0, 1)
        self.keys, self.values = self.key_slots.transpose(0, 1), self.value_slots.transpose(0, 1)

    def write(self, slots: Tensor, k: Tensor, v: Tensor) -> None:
        write(self.key_slots, slots, k)
        write(self.value_slots, slots, v)

    def copied(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of those slots, each [kv_heads, slots, head_dim]."""
        return read(self.key_slots, slots).transpose(0, 1), read(self.value_slots, slots).transpose(0, 1)


def decode(q: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
    """What one token's queries [kv_heads, group, head_dim] see of all runs; the softmax is in float32."""
    q = q * q.shape[-1] ** -0.5
    scores = [torch.bmm(q, run.transpose(1, 2)) for run in keys]
    weights = torch.softmax(scores[0] if len(scores) == 1 else torch.cat(scores, -1), -1, torch.float32).to(q.dtype)
    if len(values) == 1:
        return torch.bmm(weights, values[0])
    out, start = torch.zeros_like(q), 0
    for run in values:
        out.baddbmm_(weights.narrow(2, start, run.shape[1]), run)
        start += run.shape[1]
    return out


def prefill(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """What queries [rows, kv_heads, group, head_dim] see; keys are shared by a group without being repeated."""
    _, kv_heads, group, head_dim = q.shape
    shape = (kv_heads, group, keys.shape[1], head_dim)
    seen = F.scaled_dot_product_attention(
        q.permute(1, 2, 0, 3), keys[:, None].expand(shape), values[:, None].expand(shape), attn_mask=mask
    )
    return seen.permute(2, 0, 1, 3)
