"""What one step of a model needs around it in a test. Pages, an attention that is plainly right, a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maxserve.architectures.layers.plain_attention import plain_attention as plain_attention
from maxserve.core.interfaces.architecture import Model
from maxserve.core.interfaces.attention import Attention, AttentionContext, Index
from maxserve.core.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheLayer, KVLayer, PlainFormat
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.step_context import StepContext

Part = tuple[int, Sequence[int]]  # a row of the cache and its new tokens


class TinyCache:
    """Pages for a few rows that are never shared or given back.

    `lengths` counts the tokens of each row; `make_step` moves it on. `scatter` seeds a shuffle of the pages, so that
    neighbours in a row are not neighbours in storage. `attention` builds a back end; by default the plain one below.
    Keys and values are stored in the `format`, numbers of type `dtype` by default, and divided by `factors`.
    """

    def __init__(
        self,
        layers: Sequence[CacheLayer],
        *,
        rows: int = 4,
        max_length: int = 64,
        page_size: int = 8,
        dtype: torch.dtype = torch.float32,
        scatter: int | None = None,
        attention: Callable[[AttentionContext], Attention] | None = None,
        format: BuiltCacheFormat | None = None,
        factors: Sequence[CacheFactors] = (),
    ) -> None:
        stored = format or PlainFormat(dtype)
        pages = -(-max_length // page_size)
        order = np.arange(rows * pages) if scatter is None else np.random.default_rng(scatter).permutation(rows * pages)
        self.block_tables: NDArray[np.int32] = order.astype(np.int32).reshape(rows, pages)
        self.page_size = page_size
        self.lengths = [0] * rows
        self.layers = [_storage(layer, rows * pages, page_size, stored) for layer in layers]
        self.attention = (attention or PlainAttention)(
            AttentionContext(
                layers=tuple(layers),
                storage=self.layers,
                page_size=page_size,
                device=torch.device("cpu"),
                format=format,
                factors=factors,
            )
        )

    def slots(self, row: int, start: int, end: int) -> NDArray[np.int64]:
        """Where positions `start` … `end` - 1 of a row are kept."""
        positions = np.arange(start, end)
        pages: NDArray[np.int64] = self.block_tables[row, positions // self.page_size].astype(np.int64)
        return pages * self.page_size + positions % self.page_size


def _storage(layer: CacheLayer, pages: int, page_size: int, format: BuiltCacheFormat) -> KVLayer:
    shape = (pages, page_size, layer.kv_heads)
    keys, key_scales = _unwritten(shape, layer.head_dim, format)
    if layer.values_in_keys:
        return KVLayer(keys, keys[..., : layer.value_size], key_scales, key_scales)
    values, value_scales = _unwritten(shape, layer.value_size, format)
    return KVLayer(keys, values, key_scales, value_scales)


def _unwritten(shape: tuple[int, ...], size: int, format: BuiltCacheFormat) -> tuple[Tensor, Tensor | None]:
    """Codes and scales that are no numbers: what reads an entry that was never written shall not go unnoticed."""
    nothing = float("nan") if format.dtype.is_floating_point else 0
    codes = torch.full((*shape, format.width(size)), nothing, dtype=format.dtype)
    return codes, None if format.scale_dtype is None else torch.full(shape, float("nan"), dtype=format.scale_dtype)


def make_step(cache: TinyCache, parts: Sequence[Part], *, prompt_lens: Sequence[int] | None = None) -> StepContext:
    """A step that adds each part's tokens to its row; the logits of every token are wanted.

    `prompt_lens` has an entry per part. Without it a prompt is taken to end with its part: say it where it does not.
    """
    rows, counts = [row for row, _ in parts], [len(tokens) for _, tokens in parts]
    starts = [cache.lengths[row] for row in rows]
    spans = [(row, start, start + count) for row, start, count in zip(rows, starts, counts, strict=True)]
    for row, _, end in spans:
        cache.lengths[row] = end
    inputs = StepInputs(
        input_ids=torch.tensor([token for _, tokens in parts for token in tokens]),
        positions=torch.from_numpy(np.concatenate([np.arange(start, end) for _, start, end in spans])),
        slot_mapping=torch.from_numpy(np.concatenate([cache.slots(*span) for span in spans])),
        query_start=np.concatenate(([0], np.cumsum(counts))),
        seq_lens=np.array([end for _, _, end in spans]),
        prompt_lens=np.array([end for _, _, end in spans] if prompt_lens is None else prompt_lens),
        block_tables=cache.block_tables[rows],
        logit_rows=torch.arange(sum(counts)),
    )
    cache.attention.begin(inputs)
    return StepContext(inputs=inputs, attention=cache.attention)


def run_step(
    model: Model, cache: TinyCache, parts: Sequence[Part], *, prompt_lens: Sequence[int] | None = None
) -> Tensor:
    """The logits of every token of one step, [T, vocab_size]; arguments as for `make_step`."""
    with torch.inference_mode():
        step = make_step(cache, parts, prompt_lens=prompt_lens)
        return model.logits(model.forward(step)[step.inputs.logit_rows])


class PlainAttention:
    """Attention as the textbook has it, one sequence after another, in float64: the measure for faster ones."""

    def __init__(self, context: AttentionContext) -> None:
        self.context = context

    def begin(self, inputs: StepInputs) -> None:
        """Nothing to plan."""

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
        stored, kept = self.context.storage[layer], self.context.layers[layer]
        factors = self.context.factors[layer] if self.context.factors else None
        key_factors, value_factors = (None, None) if factors is None else (factors.keys, factors.values)
        keys = _Stored(stored.keys, stored.key_scales, self.context.format, key_factors)
        values = _Stored(stored.values, stored.value_scales, self.context.format, value_factors)
        keys.write(inputs.slot_mapping, k)
        if not kept.values_in_keys:
            values.write(inputs.slot_mapping, v)
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for row, length in enumerate(inputs.seq_lens.tolist()):
            mine = slice(int(inputs.query_start[row]), int(inputs.query_start[row + 1]))
            positions = torch.arange(length)
            pages = torch.from_numpy(inputs.block_tables[row].astype(np.int64))[positions // self.context.page_size]
            slots = pages * self.context.page_size + positions % self.context.page_size
            spans = inputs.bidirectional[row] if inputs.bidirectional and kept.bidirectional else ()
            own = None if index is None else index.of(mine)
            known = keys.read(slots)
            seen = known[..., : kept.value_size] if kept.values_in_keys else values.read(slots)
            out[mine] = plain_attention(q[mine], known, seen, kept, sinks, spans, own).to(q.dtype)
        return out


class _Stored:
    """Keys or values of a layer, by slot, in a format."""

    def __init__(
        self, codes: Tensor, scales: Tensor | None, format: BuiltCacheFormat | None, factors: Tensor | None
    ) -> None:
        self._format = format or PlainFormat(codes.dtype)
        self._codes, self._scales = codes.flatten(0, 1), None if scales is None else scales.flatten(0, 1)
        self._factors = 1.0 if factors is None else factors.unsqueeze(-1)

    def write(self, slots: Tensor, x: Tensor) -> None:
        codes, scales = self._format.encode(x / self._factors)
        self._codes[slots] = codes
        if self._scales is not None and scales is not None:
            self._scales[slots] = scales

    def read(self, slots: Tensor) -> Tensor:
        """[slots, kv_heads, size] in float64."""
        scales = None if self._scales is None else self._scales[slots]
        return self._format.decode(self._codes[slots], scales).double() * self._factors
