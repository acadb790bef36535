"""Attention over pages on a CPU. In place: no key or value is copied but blocks of them, where the cache is narrower.

Where the processor multiplies bfloat16, and the precision is not `exact`, a bfloat16 cache is read as it is: queries
and the weights of values are rounded to bfloat16 too, sums and softmax are in float32. Codes of 8 bits, floats and
whole numbers with a scale for each head, are widened to float32 in registers for decoding tokens; for prompts, which
read them more than once, a block of them is made float32, or bfloat16 where it would be multiplied so.

A decoding token's heads that share keys are rows of one product over chunks of the sequence; a prompt's tokens go in
blocks with a running softmax. A decoding token's numbers depend on nothing but the sequence; those of a prompt also on
which of its pages lie together, as blocks end where pages do. Tokens of a text that are computed again, many at once,
are attended as they were when they were decoded.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maxserve.interfaces.attention import AttentionContext, CacheQuery, Index
from maxserve.interfaces.cache import BuiltCacheFormat, CacheFactors, CacheLayer, KVLayer, PlainFormat
from maxserve.interfaces.errors import Unavailable
from maxserve.interfaces.inputs import StepInputs
from maxserve.plugins.cache.formats import Int8Format
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.library import library_for, rounds

N = TypeVar("N", bound=np.generic)
Ints = NDArray[np.int64]

# The cache's types as the source numbers them, and those for which queries and weights are rounded to bfloat16, too.
KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float8_e4m3fn: 2, torch.int8: 4}
ROUNDED = {torch.bfloat16: 3, torch.float8_e4m3fn: 5, torch.int8: 6}


FEW, CHUNK = (
    16,
    512,
)  # as parts.h and attention.cpp have them: new tokens that are attended as decoding ones, and positions of a sum
MOST_SUMS = 4096  # for each head that are kept in a step until they are joined


class NativeAttention:
    """An Attention over the storage in its context."""

    def __init__(self, context: AttentionContext) -> None:
        for stored in context.storage:
            _check_format(context.format or PlainFormat(stored.keys.dtype))
        for layer in context.layers:
            _check_layer(layer)
        self._library = library_for(context)
        kinds = KINDS | (ROUNDED if rounds(self._library, context.config(Config).precision) else {})
        factors = context.factors or (None,) * len(context.layers)
        self._layers = [
            _Layer(layer, stored, context.page_size, kinds[stored.keys.dtype], own)
            for layer, stored, own in zip(context.layers, context.storage, factors, strict=True)
        ]
        self.step = _Step()

    def begin(self, inputs: StepInputs) -> None:
        """Notes where the step's arrays lie."""
        self.step = _Step(inputs)

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
        if not q.shape[0]:
            return q
        stored, step = self._layers[layer], self.step
        dtype = q.dtype
        q, k, v = _heads_together(q), _heads_together(k), _heads_together(v)
        sinks = None if sinks is None else sinks.float().contiguous()
        tokens, heads, dim = q.shape
        out = torch.empty(tokens, heads, dim)
        steps = np.array((q.stride(0), k.stride(0), v.stride(0)), dtype=np.int64)
        sizes = stored.sizes(heads, step.table_step)
        self._library.ms_attend(
            q.data_ptr(),
            k.data_ptr(),
            v.data_ptr(),
            steps.ctypes.data,
            out.data_ptr(),
            stored.address,
            sizes.ctypes.data,
            *step.addresses,
            tokens,
            step.sequences,
            stored.scale,
            stored.cap,
            0 if sinks is None else sinks.data_ptr(),
        )
        return out.to(dtype)

    def resources(self, layer: int, *, heads: int) -> tuple[tuple[int, ...], tuple[int], float]:
        """Sizes, the address of a Store and the scale of a layer, for compiled code that attends by itself."""
        stored = self._layers[layer]
        return tuple(stored.sizes(heads, 0).tolist()[:7]), (stored.address,), stored.scale

    def cap(self, layer: int) -> float:
        """The soft cap of a layer's scores, 0 where it has none."""
        return self._layers[layer].cap


def cache_dtype(query: CacheQuery) -> torch.dtype:
    """bfloat16 where the rows of projections are rounded to it: attention rounds queries to it, too."""
    for layer in query.layers:
        _check_layer(layer)
    return query.rows


def _check_format(format: BuiltCacheFormat) -> None:
    if not isinstance(format, PlainFormat | Int8Format) or format.dtype not in KINDS:
        raise Unavailable(f"the native attention does not read a cache of {format.dtype} by {type(format).__name__}")


def _check_layer(layer: CacheLayer) -> None:
    if layer.value_size != layer.head_dim or layer.values_in_keys:
        raise Unavailable("the native attention knows no layers with values of another size than keys")
    if layer.index_top:
        raise Unavailable("the native attention knows no layers whose tokens choose what they see")
    if layer.bidirectional:
        raise Unavailable("the native attention knows no layers with tokens that see those after them")


class _Step:
    """The arrays of a step that all layers share, and their addresses."""

    __slots__ = ("_arrays", "addresses", "sequences", "table_step")

    def __init__(self, inputs: StepInputs | None = None) -> None:
        self.addresses: tuple[int, ...] = ()
        self.sequences = self.table_step = 0
        if inputs is None:
            return
        query_start, seq_lens = _array(inputs.query_start, np.int64), _array(inputs.seq_lens, np.int64)
        tables, slots = _array(inputs.block_tables, np.int32), inputs.slot_mapping.contiguous()
        if (
            len(slots) > FEW
            and (counts := np.diff(query_start)).max() > FEW
            and (again := _computed_again(counts, seq_lens, inputs.prompt_lens)).any()
        ):
            query_start, seq_lens, owners = _in_pieces(query_start, seq_lens, inputs.prompt_lens, again)
            tables = tables[owners]
        self._arrays = (slots, query_start, seq_lens, tables)  # alive as long as their addresses are used
        self.addresses = (slots.data_ptr(), query_start.ctypes.data, seq_lens.ctypes.data, tables.ctypes.data)
        self.sequences, self.table_step = len(seq_lens), tables.shape[1]


def _computed_again(counts: Ints, seq_lens: Ints, prompt_lens: Ints) -> NDArray[np.bool_]:
    """Which sequences have more of their `counts` new tokens behind their prompts than are ever decoded in one step.

    Not those from which on so many sums would be kept in the step that they take too much memory.
    """
    texts = np.minimum(counts, seq_lens - prompt_lens)
    many = (counts > FEW) & (texts > 0)
    sums = np.where(many, texts * -(-seq_lens // CHUNK), 0)
    found: NDArray[np.bool_] = many & (np.cumsum(sums) <= MOST_SUMS)
    return found


def _in_pieces(
    query_start: Ints, seq_lens: Ints, prompt_lens: Ints, again: NDArray[np.bool_]
) -> tuple[Ints, Ints, Ints]:
    """`query_start` and `seq_lens` of pieces that are attended as if each were a sequence, and which each is of.

    Those of a sequence that is `again` computed are its prompt, and each token behind that by itself: a sequence with
    one new token is what projections (layers.cpp) and attention decode.
    """
    starts: list[int] = []
    lengths: list[int] = []
    owners: list[int] = []
    firsts = zip(query_start.tolist(), query_start[1:].tolist(), strict=False)
    rows = zip(firsts, seq_lens.tolist(), prompt_lens.tolist(), again.tolist(), strict=True)
    for sequence, ((start, stop), length, prompt, many) in enumerate(rows):
        text = max(prompt - (length - stop), start) if many else stop  # the row where the text begins
        ends = ([text] if text > start or not many else []) + list(range(text + 1, stop + 1))
        starts += [start, *ends[:-1]]
        lengths += [end + length - stop for end in ends]
        owners += [sequence] * len(ends)
    stops = [*starts, int(query_start[-1])]
    return np.array(stops, dtype=np.int64), np.array(lengths, dtype=np.int64), np.array(owners, dtype=np.int64)


class _Layer:
    """Where a layer's keys and values lie, `address` that of a Store, and its sizes as the source wants them."""

    __slots__ = ("_factors", "_sizes", "_storage", "_store", "address", "cap", "scale")

    def __init__(
        self, layer: CacheLayer, stored: KVLayer, page_size: int, kind: int, factors: CacheFactors | None
    ) -> None:
        self._storage, self.scale, self.cap = stored, layer.score_scale, layer.softcap or 0.0
        parts = (stored.keys, stored.values, stored.key_scales, stored.value_scales)
        own = (None, None) if factors is None else (factors.keys, factors.values)
        self._factors = [None if each is None else each.float().contiguous() for each in own]
        self._store = np.array([0 if x is None else x.data_ptr() for x in (*parts, *self._factors)], dtype=np.int64)
        self.address = self._store.ctypes.data
        window, chunk = layer.window or 0, layer.chunk or 0
        self._sizes = np.array((0, layer.kv_heads, layer.head_dim, page_size, window, kind, chunk, 0), dtype=np.int64)

    def sizes(self, heads: int, table_step: int) -> NDArray[np.int64]:
        self._sizes[0], self._sizes[7] = heads, table_step
        return self._sizes


def _array(array: NDArray[np.generic], dtype: type[N]) -> NDArray[N]:
    return np.ascontiguousarray(array, dtype=dtype)


def _heads_together(x: Tensor) -> Tensor:
    """`x` [T, heads, head_dim] in float32, with the heads of a token one after another."""
    x = x.float()
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()
