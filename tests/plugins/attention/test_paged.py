"""Attention over pages against the textbook in float64, whatever the pages' order and the step's shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from maxserve.architectures.layers.config import from_transformers
from maxserve.architectures.llama import Model
from maxserve.core.interfaces.attention import AttentionContext
from maxserve.core.interfaces.cache import CacheLayer
from maxserve.core.interfaces.inputs import StepInputs
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.attention.mask import CausalMask
from maxserve.plugins.attention.paged import BLOCK, PagedAttention
from maxserve.plugins.attention.plan import Sight, shares
from maxserve.testing.architecture import PlainAttention, TinyCache, make_step, randomised, run_step

HEADS, KV_HEADS, DIM, PAGE = 6, 2, 16, 8

ORDERS = {
    "one run": list(range(3, 13)),
    "two runs": [20, 21, 22, 3, 4, 5, 6, 7, 8, 9],
    "a run of one page between": [1, 2, 3, 30, 4, 5, 6, 7, 8, 9],
    "backwards": list(range(29, 19, -1)),
    "scattered": [7, 3, 11, 25, 14, 30, 9, 2, 18, 21],
}


class Stage:
    """A cache of one layer and what should be in it: every step's result beside the textbook's."""

    def __init__(self, tables: Sequence[Sequence[int]], *, dtype: torch.dtype = torch.float32, **layer: Any) -> None:
        self.layer = CacheLayer(**{"kv_heads": KV_HEADS, "head_dim": DIM, **layer})
        pages = 32 if len(tables) == 1 else 1 + max(page for table in tables for page in table)
        self.cache = TinyCache(
            [self.layer], rows=1, max_length=pages * PAGE, page_size=PAGE, dtype=dtype, attention=PagedAttention
        )
        width = max(map(len, tables))  # what a table holds beyond its sequence must not matter
        padded = [[*table, *[2**30] * (width - len(table))] for table in tables]
        self.cache.block_tables = np.array(padded, dtype=np.int32)
        self.cache.lengths = [0] * len(tables)
        self.plain = PlainAttention(
            AttentionContext(
                layers=(self.layer,), storage=self.cache.layers, page_size=PAGE, device=torch.device("cpu")
            )
        )
        self.generator = torch.Generator().manual_seed(len(tables))

    def step(self, counts: dict[int, int], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Result and expected result of a step that adds so many random tokens to each row."""
        step = make_step(self.cache, [(row, [0] * count) for row, count in counts.items()])
        q, k, v = (self.random(sum(counts.values()), heads, dtype) for heads in (HEADS, KV_HEADS, KV_HEADS))
        result = step.attend(0, q, k, v)
        return result, self.plain.attend(0, q, k, v, step.inputs)

    def random(self, tokens: int, heads: int, dtype: torch.dtype) -> Tensor:
        # Views of something wider, as an architecture's projections are.
        wide = torch.randn(tokens, heads + 3, self.layer.head_dim, generator=self.generator)
        return wide.to(dtype)[:, 1 : 1 + heads]


def assert_near(pair: tuple[Tensor, Tensor], tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(pair[0], pair[1], atol=tolerance, rtol=0)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("first", [1, 7, 8, 9, 16, 17, 50])
@pytest.mark.parametrize("window", [None, 1, 5, 20])
def test_a_sequence_equals_the_textbook(order: list[int], first: int, window: int | None) -> None:
    stage = Stage([order], window=window)
    for count in (first, 1, 1, 6, 1):
        assert_near(stage.step({0: count}))


@pytest.mark.parametrize(("kv_heads", "dim"), [(1, 8), (3, 24), (6, 64)])
def test_any_ratio_of_heads(kv_heads: int, dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage([ORDERS["two runs"]], kv_heads=kv_heads, head_dim=dim)
    monkeypatch.setitem(globals(), "KV_HEADS", kv_heads)
    for count in (20, 1, 5):
        assert_near(stage.step({0: count}))


def test_a_mixed_step() -> None:
    tables = [
        list(range(8)),
        [20, 21, 0, 9, 10, 11, 12, 13],
        [31, 30, 29, 28, 27, 26, 25, 24],
        [14, 15, 16, 17, 18, 19, 22, 23],
    ]
    stage = Stage(tables)
    assert_near(stage.step({1: 16, 0: 7, 3: 30}))
    assert_near(stage.step({2: 40, 0: 1, 1: 9, 3: 1}))
    assert_near(stage.step({0: 1, 1: 1, 2: 1, 3: 1}))


def test_sequences_may_share_pages() -> None:
    stage = Stage([[5, 6, 7, 8], [5, 6, 12, 13]])
    stage.step({0: 16})
    stage.cache.lengths[1] = 16
    assert_near(stage.step({0: 3, 1: 5}))
    assert_near(stage.step({1: 1, 0: 1}))


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("scattered", [False, True])
def test_more_rows_than_a_block(scattered: bool, window: int | None) -> None:
    pages = np.random.default_rng(0).permutation(110) if scattered else np.arange(110)
    stage = Stage([pages.tolist(), [110]], window=window)
    for count in (BLOCK + 44, 2 * BLOCK, 1, 17):
        assert_near(stage.step({0: count}), 4e-6)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_row_does_not_depend_on_its_batch(order: list[int]) -> None:
    """To the bit, whichever place in the step it has."""
    for count in (1, 2, 13):
        alone, crowded = Stage([order]), Stage([order, [40, 41, 42, 43], [50, 60, 51, 61]])
        q, k, v = (alone.random(30 + count, heads, torch.float32) for heads in (HEADS, KV_HEADS, KV_HEADS))
        outs = []
        for stage, parts in ((alone, {0: count}), (crowded, {1: 3, 0: count, 2: 1})):
            step = make_step(stage.cache, [(0, [0] * 30)])
            step.attend(0, q[:30], k[:30], v[:30])
            step = make_step(stage.cache, [(row, [0] * n) for row, n in parts.items()])
            rows = step.inputs.query_start[list(parts).index(0)] + np.arange(count)
            new = [
                stage.random(int(step.inputs.query_start[-1]), heads, torch.float32)
                for heads in (HEADS, KV_HEADS, KV_HEADS)
            ]
            for target, source in zip(new, (q, k, v), strict=True):
                target[rows] = source[30:]
            outs.append(step.attend(0, *new)[rows])
        assert torch.equal(*outs)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_storage_and_queries_may_differ_in_dtype(order: list[int]) -> None:
    low, high = torch.bfloat16, torch.float32
    for stored, computed, tolerance in ((low, high, 2e-6), (low, low, 2e-2), (high, low, 2e-2)):
        stage = Stage([order], dtype=stored)
        for count in (33, 1, 4):
            result, expected = stage.step({0: count}, computed)
            assert result.dtype == computed
            assert_near((result, expected), tolerance)


def test_neighbouring_pages_are_not_copied() -> None:
    stage = Stage([ORDERS["two runs"]])
    stage.step({0: 70})
    make_step(stage.cache, [(0, [0])])
    attention = stage.cache.attention
    assert isinstance(attention, PagedAttention)
    (part,) = attention.plans[Sight()]
    keys, values = part.views(attention.layers[0], torch.float32)
    storage = stage.cache.layers[0]
    assert [run.untyped_storage().data_ptr() for run in keys] == [storage.keys.untyped_storage().data_ptr()] * 2
    assert [run.untyped_storage().data_ptr() for run in values] == [storage.values.untyped_storage().data_ptr()] * 2


def inputs_of(tables: Sequence[Sequence[int]], lengths: Sequence[int], rows: Sequence[int]) -> StepInputs:
    cache = TinyCache([])
    cache.block_tables = np.array(tables, dtype=np.int32)
    cache.lengths = [length - new for length, new in zip(lengths, rows, strict=True)]
    return make_step(cache, [(row, [0] * new) for row, new in enumerate(rows)]).inputs


def test_runs_of_neighbouring_pages() -> None:
    inputs = inputs_of([[4, 5, 9, 10], [3, 2, 7, 99], [6, 7, 8, 9]], [29, 20, 8], [1, 2, 8])
    assert [share.runs for share in shares(inputs, 8, Sight())] == [
        ((32, 16), (72, 13)),
        ((24, 8), (16, 8), (56, 4)),
        ((48, 8),),
    ]


def test_runs_start_where_the_window_does() -> None:
    inputs = inputs_of([[4, 5, 9, 10], [3, 2, 7, 99], [6, 7, 8, 9]], [29, 20, 8], [1, 2, 8])
    found = shares(inputs, 8, Sight(window=5))
    assert [(share.low, share.runs) for share in found] == [
        (24, ((80, 5),)),
        (14, ((22, 2), (56, 4))),
        (0, ((48, 8),)),
    ]
    assert found[1].slots().tolist() == [22, 23, 56, 57, 58, 59]


def test_a_mask_is_a_slice_of_one_band() -> None:
    mask = CausalMask(4, 3, torch.device("cpu"))
    small = mask.slice(2, 1, torch.float32) == 0
    assert small.tolist() == [[True, True, False], [True, True, True]]
    assert (mask.slice(2, 9, torch.float32) == 0).sum(dim=1).tolist() == [3, 3]
    assert (mask.slice(4, 2, torch.float32) == 0)[:, :3].tolist() == [
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]


@pytest.mark.parametrize("scatter", [None, 3])
def test_a_model_over_pages(scatter: int | None) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    raw = LlamaConfig(vocab_size=50, num_key_value_heads=2, max_position_embeddings=128, **sizes).to_dict()
    config = from_transformers(raw)
    model = randomised(Model(config))
    model.prepare()
    host = PluginHost.discover(PluginOptions(), strict=False)
    entry = host.attention_backends.get("torch")
    caches = [
        TinyCache(config.cache_layers, max_length=100, scatter=scatter),
        TinyCache(config.cache_layers, max_length=100, scatter=scatter, attention=lambda c: host.build(entry, c)),
    ]
    assert isinstance(caches[1].attention, PagedAttention)
    prompts = np.random.default_rng(1).integers(50, size=(4, 90)).tolist()
    for parts in (
        [(0, 0, 40), (2, 0, 8)],
        [(1, 0, 33), (2, 8, 9), (0, 40, 41)],
        [(3, 0, 90), (0, 41, 80), (1, 33, 34)],
    ):
        step = [(row, prompts[row][start:end]) for row, start, end in parts]
        expected, logits = (run_step(model, cache, step) for cache in caches)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
