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
from maxserve.core.interfaces.cache import CacheLayer, KVLayer
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.interfaces.step_context import StepContext

Part = tuple[int, Sequence[int]]  # a row of the cache and its new tokens


class TinyCache:
    """Pages for a few rows that are never shared or given back.

    `lengths` counts the tokens of each row; `make_step` moves it on. `scatter` seeds a shuffle of the pages, so that
    neighbours in a row are not neighbours in storage. `attention` builds a back end; by default the plain one below.
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
    ) -> None:
        pages = -(-max_length // page_size)
        order = np.arange(rows * pages) if scatter is None else np.random.default_rng(scatter).permutation(rows * pages)
        self.block_tables: NDArray[np.int32] = order.astype(np.int32).reshape(rows, pages)
        self.page_size = page_size
        self.lengths = [0] * rows
        self.layers = [_storage(layer, rows * pages, page_size, dtype) for layer in layers]
        self.attention = (attention or PlainAttention)(
            AttentionContext(layers=tuple(layers), storage=self.layers, page_size=page_size, device=torch.device("cpu"))
        )

    def slots(self, row: int, start: int, end: int) -> NDArray[np.int64]:
        """Where positions `start` … `end` - 1 of a row are kept."""
        positions = np.arange(start, end)
        pages: NDArray[np.int64] = self.block_tables[row, positions // self.page_size].astype(np.int64)
        return pages * self.page_size + positions % self.page_size


def _storage(layer: CacheLayer, pages: int, page_size: int, dtype: torch.dtype) -> KVLayer:
    # Not zeros: what reads an entry that was never written shall not go unnoticed.
    shape = (pages, page_size, layer.kv_heads)
    keys = torch.full((*shape, layer.head_dim), float("nan"), dtype=dtype)
    if layer.values_in_keys:
        return KVLayer(keys, keys[..., : layer.value_size])
    return KVLayer(keys, torch.full((*shape, layer.value_size), float("nan"), dtype=dtype))


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
        keys, values = stored.keys.flatten(0, 1), stored.values.flatten(0, 1)
        keys[inputs.slot_mapping], values[inputs.slot_mapping] = k.to(keys.dtype), v.to(values.dtype)
        out = q.new_empty(*q.shape[:2], v.shape[2])
        for row, length in enumerate(inputs.seq_lens.tolist()):
            mine = slice(int(inputs.query_start[row]), int(inputs.query_start[row + 1]))
            positions = torch.arange(length)
            pages = torch.from_numpy(inputs.block_tables[row].astype(np.int64))[positions // self.context.page_size]
            slots = pages * self.context.page_size + positions % self.context.page_size
            spans = inputs.bidirectional[row] if inputs.bidirectional and kept.bidirectional else ()
            own = None if index is None else index.of(mine)
            out[mine] = plain_attention(q[mine], keys[slots], values[slots], kept, sinks, spans, own).to(q.dtype)
        return out
