"""Checks of attention back ends.

class TestAcme(AttentionChecks):
    attention = "acme"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.attention import Attention, AttentionContext, Index
from maxserve.core.interfaces.cache import (
    BuiltCacheFormat,
    CacheFactors,
    CacheFormat,
    CacheFormatContext,
    CacheGroup,
    CacheLayer,
)
from maxserve.core.interfaces.errors import Unavailable
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.tiny_cache import PlainAttention, TinyCache, make_step

__all__ = ["AttentionChecks"]

PAGE = 8
ORDERS = {
    "one run": list(range(3, 13)),
    "a page between": [1, 2, 3, 30, 4, 5, 6, 7, 8, 9],
    "backwards": list(range(29, 19, -1)),
    "scattered": [7, 3, 11, 25, 14, 30, 9, 2, 18, 21],
}
SHAPES = [(6, 2, 16), (4, 4, 8), (3, 1, 64), (8, 2, 24), (7, 1, 20)]  # heads, key heads, size of a head
RULES: dict[str, dict[str, Any]] = {
    "scale": {"scale": 0.1},
    "soft cap": {"softcap": 2.0},
    "sinks": {"sinks": True},
    "sinks, soft cap and window": {"sinks": True, "softcap": 1.5, "window": 7},
    "chunks": {"chunk": 12},
    "small values": {"value_dim": 8},
    "values in keys": {"value_dim": 12, "values_in_keys": True},
    "an index": {"index_dim": 8, "index_top": 5},
    "an index that chooses one": {"index_dim": 4, "index_top": 1},
    "an index, chunks and sinks": {"index_dim": 4, "index_top": 5, "chunk": 12, "softcap": 2.0, "sinks": True},
    "an index, a window, values in keys": {
        "index_dim": 4,
        "index_top": 6,
        "window": 9,
        "value_dim": 12,
        "values_in_keys": True,
    },
}


class _Stage:
    """A cache of one layer and two back ends over it, each with storage of its own: the tested one and the textbook."""

    def __init__(
        self,
        checks: AttentionChecks,
        tables: Sequence[Sequence[int]],
        shape: tuple[int, int, int] = SHAPES[0],
        *,
        dtype: torch.dtype = torch.float32,
        format: BuiltCacheFormat | None = None,
        factors: Sequence[CacheFactors] = (),
        **rules: Any,
    ) -> None:
        self.heads, self.kv_heads, self.dim = shape
        layer = CacheLayer(kv_heads=self.kv_heads, head_dim=self.dim, **rules)
        self.layer = layer
        host = PluginHost.discover(checks.plugins, strict=True)
        entry = host.attention_backends.get(checks.attention)

        def build(context: AttentionContext) -> Attention:
            attention: Attention = host.build(entry, replace(context, sections=checks.sections))
            return attention

        pages = 1 + max(page for table in tables for page in table)
        width = max(map(len, tables))  # what a table holds beyond its sequence must not matter
        padded = np.array([[*table, *[2**30] * (width - len(table))] for table in tables], dtype=np.int32)
        self.caches = []
        for attention in (build, PlainAttention):
            cache = TinyCache(
                [layer],
                rows=1,
                max_length=pages * PAGE,
                page_size=PAGE,
                dtype=dtype,
                attention=attention,
                format=format,
                factors=factors,
            )
            cache.block_tables, cache.lengths = padded, [0] * len(tables)
            self.caches.append(cache)
        self.generator = torch.Generator().manual_seed(len(tables))

    def step(
        self, counts: dict[int, int], spans: Mapping[int, Sequence[tuple[int, int]]] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Result and expected result of a step that adds so many random tokens to each row.

        `spans`: by row, the spans of positions whose tokens see each other.
        """
        tokens = sum(counts.values())
        q, k, v = (self._random(tokens, heads) for heads in (self.heads, self.kv_heads, self.kv_heads))
        v = (k if self.layer.values_in_keys else v)[..., : self.layer.value_size]
        sinks = torch.linspace(-2, 2, self.heads) if self.layer.sinks else None
        steps = [make_step(cache, [(row, [0] * n) for row, n in counts.items()]) for cache in self.caches]
        if spans is not None:
            for step in steps:
                step.inputs.bidirectional = tuple(tuple(spans.get(row, ())) for row in counts)
                step.attention.begin(step.inputs)
        index = self._index(tokens) if self.layer.index_top else None
        result, expected = (step.attend(0, q.clone(), k.clone(), v.clone(), sinks, index) for step in steps)
        return result, expected

    def _index(self, tokens: int) -> Index:
        # Many heads, as a score of exactly 0 would be a tie.
        queries = torch.randn(tokens, 16, self.layer.index_dim, generator=self.generator)
        return Index(queries, torch.randn(tokens, 16, generator=self.generator))

    def _random(self, tokens: int, heads: int) -> Tensor:
        # Views of something wider, as an architecture's projections are.
        wide = torch.randn(tokens, heads + 3, self.dim, generator=self.generator)
        return wide[:, 1 : 1 + heads]


class NibbleFormat:
    """A BuiltCacheFormat of two numbers in a byte, with a scale in bfloat16: one that no back end has heard of."""

    dtype = torch.uint8
    scale_dtype = torch.bfloat16
    factored = True

    def width(self, size: int) -> int:
        return size // 2

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scales = (x.float().abs().amax(-1) / 7).bfloat16()
        codes = (x / scales.float().unsqueeze(-1)).nan_to_num().round().clamp(-7, 7).add(8).to(torch.uint8)
        return codes[..., ::2] | codes[..., 1::2] << 4, scales

    def decode(self, codes: Tensor, scales: Tensor | None) -> Tensor:
        assert scales is not None, "codes come with scales"
        numbers = torch.stack((codes & 15, codes >> 4), -1).flatten(-2).float() - 8
        return numbers * scales.float().unsqueeze(-1)


FORMATS = ("float8_e4m3fn", "int8", "a stranger's")


class AttentionChecks:
    """What every attention back end must pass on a CPU. `plugins` says where it comes from, if not installed."""

    attention: ClassVar[str]
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    plugins: ClassVar[PluginOptions] = PluginOptions()
    tolerance: ClassVar[float] = 4e-6
    bfloat16_tolerance: ClassVar[float] = 4e-6  # over a bfloat16 cache, beyond the rounding of what is stored
    format_tolerance: ClassVar[float] = 4e-6  # over a cache in another format, likewise

    @pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
    @pytest.mark.parametrize("window", [None, 1, 5, 20])
    def test_a_sequence_equals_the_textbook(self, order: list[int], window: int | None) -> None:
        for first in (1, 8, 17, 50):
            stage = _Stage(self, [order], window=window)
            for count in (first, 1, 1, 6, 1):
                self.check(stage.step({0: count}))

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_any_ratio_and_size_of_heads(self, shape: tuple[int, int, int]) -> None:
        stage = _Stage(self, [ORDERS["a page between"]], shape)
        for count in (20, 1, 5):
            self.check(stage.step({0: count}))

    @pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
    @pytest.mark.parametrize("order", [ORDERS["one run"], ORDERS["scattered"]], ids=["one run", "scattered"])
    def test_what_a_layer_may_say(self, order: list[int], rule: dict[str, Any]) -> None:
        """Where the back end cannot do it, its build says so."""
        try:
            stage = _Stage(self, [order, list(range(40, 50))], (6, 2, 16), **rule)
        except Unavailable:
            pytest.skip("declared to be unavailable, so that another back end serves")
        for counts in ({0: 17, 1: 1}, {0: 1, 1: 1}, {1: 30, 0: 9}, {0: 1, 1: 5}):
            self.check(stage.step(counts))

    @pytest.mark.parametrize("rule", [{}, {"window": 7}, {"chunk": 12}, {"softcap": 2.0}], ids=str)
    @pytest.mark.parametrize("order", [ORDERS["one run"], ORDERS["scattered"]], ids=["one run", "scattered"])
    def test_tokens_that_see_each_other(self, order: list[int], rule: dict[str, Any]) -> None:
        """Of a span that a step has whole, as those of an image; a step may begin or end between two of them."""
        try:
            stage = _Stage(self, [order, list(range(40, 50))], bidirectional=True, **rule)
        except Unavailable:
            pytest.skip("declared to be unavailable, so that another back end serves")
        spans = {0: [(2, 9), (20, 21), (21, 40)], 1: [(0, 16)]}
        for counts in ({0: 12, 1: 20}, {1: 1, 0: 9}, {0: 22, 1: 3}, {0: 1, 1: 1}, {0: 5}):
            self.check(stage.step(counts, spans))
        self.check(stage.step({0: 2}, {0: [(49, 51)]}))

    def test_a_long_span_is_seen_whole(self) -> None:
        """However a back end cuts a prompt into blocks."""
        try:
            stage = _Stage(self, [np.random.default_rng(0).permutation(160).tolist()], bidirectional=True)
        except Unavailable:
            pytest.skip("declared to be unavailable, so that another back end serves")
        spans = {0: [(10, 700), (900, 1000)]}
        for count in (5, 800, 200, 1):
            self.check(stage.step({0: count}, spans))

    @pytest.mark.parametrize("rule", [{"window": 5}, {"window": 20}, {"chunk": 12}], ids=str)
    def test_what_a_window_has_passed_does_not_matter(self, rule: dict[str, Any]) -> None:
        """Such pages are given back, and others come to stand in their place."""
        try:
            stage = _Stage(self, [ORDERS["scattered"]], **rule)
        except Unavailable:
            pytest.skip("declared to be unavailable, so that another back end serves")
        tested, group = stage.caches[0], CacheGroup(layers=(0,), **rule)
        tested.block_tables = tested.block_tables.copy()
        tested.layers[0].keys[0], tested.layers[0].values[0] = 7.0, 7.0
        for count in (30, 1, 9, 1, 17, 1):
            tested.block_tables[0, : group.first_page(tested.lengths[0], PAGE)] = 0
            self.check(stage.step({0: count}))

    def test_a_mixed_step(self) -> None:
        tables = [list(range(8)), [20, 21, 8, 9, 10, 11, 12, 13], [31, 30, 29, 28, 27, 26, 25, 24], [14, 15, 16, 17]]
        stage = _Stage(self, tables)
        for counts in ({1: 16, 0: 7, 3: 30}, {2: 40, 0: 1, 1: 9, 3: 1}, {0: 1, 1: 1, 2: 1, 3: 1}):
            self.check(stage.step(counts))

    @pytest.mark.parametrize("window", [None, 100])
    def test_long_sequences(self, window: int | None) -> None:
        pages = np.random.default_rng(0).permutation(160).tolist()
        stage = _Stage(self, [pages, [160]], window=window)
        for count in (300, 512, 1, 400, 1, 17):
            self.check(stage.step({0: count}))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_a_row_does_not_depend_on_its_batch(self, dtype: torch.dtype) -> None:
        """To the bit, whichever place in the step it has."""
        order, others = ORDERS["scattered"], [[40, 41, 42, 43], [50, 60, 51, 61]]
        for count in (1, 2, 13):
            alone, crowded = _Stage(self, [order], dtype=dtype), _Stage(self, [order, *others], dtype=dtype)
            qkv = [alone._random(30 + count, n) for n in (alone.heads, alone.kv_heads, alone.kv_heads)]
            outs = []
            for stage, parts in ((alone, {0: count}), (crowded, {1: 3, 0: count, 2: 1})):
                cache = stage.caches[0]
                q, k, v = (x[:30] for x in qkv)
                make_step(cache, [(0, [0] * 30)]).attend(0, q, k, v)
                step = make_step(cache, [(row, [0] * n) for row, n in parts.items()])
                rows = step.inputs.query_start[list(parts).index(0)] + np.arange(count)
                new = [stage._random(int(step.inputs.query_start[-1]), x.shape[1]) for x in qkv]
                for target, source in zip(new, qkv, strict=True):
                    target[rows] = source[30:]
                q, k, v = new
                outs.append(step.attend(0, q, k, v)[rows])
            assert torch.equal(*outs)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_queries_in_another_type(self, dtype: torch.dtype) -> None:
        stage = _Stage(self, [ORDERS["one run"]])
        cache = stage.caches[0]
        step = make_step(cache, [(0, [0] * 9)])
        q, k, v = (stage._random(9, n).to(dtype) for n in (stage.heads, stage.kv_heads, stage.kv_heads))
        assert step.attend(0, q, k, v).dtype == dtype

    @pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
    def test_a_bfloat16_cache(self, order: list[int]) -> None:
        """What was stored is rounded; beyond that the arithmetic is that of the queries, or as near as is said."""
        for shape in SHAPES:
            stage = _Stage(self, [order], shape, dtype=torch.bfloat16)
            for count in (33, 1, 4):
                result, expected = stage.step({0: count})
                torch.testing.assert_close(result.float(), expected.float(), atol=self.bfloat16_tolerance, rtol=0)

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("factors", [False, True], ids=["", "divided"])
    @pytest.mark.parametrize("order", [ORDERS["one run"], ORDERS["scattered"]], ids=["one run", "scattered"])
    def test_a_cache_in_a_format(self, order: list[int], factors: bool, format: str) -> None:
        """Both store the same codes, of which the textbook makes float64: beyond that, arithmetic is exact."""
        for shape in SHAPES:
            stage = self.formatted(format, [order], shape, factors)
            for count in (33, 1, 4, 1):
                self.check_formatted(stage.step({0: count}))

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("rule", [{"softcap": 2.0}, {"sinks": True}, {"window": 7}, {"chunk": 12}], ids=str)
    def test_what_a_layer_may_say_of_a_cache_in_a_format(self, rule: dict[str, Any], format: str) -> None:
        stage = self.formatted(format, [ORDERS["scattered"], list(range(40, 50))], (6, 2, 32), True, **rule)
        for counts in ({0: 17, 1: 1}, {0: 1, 1: 1}, {1: 30, 0: 9}, {0: 1, 1: 5}):
            self.check_formatted(stage.step(counts))

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize("dim", [32, 48, 64])
    def test_a_long_sequence_in_a_format(self, dim: int, format: str) -> None:
        pages = np.random.default_rng(0).permutation(160).tolist()
        stage = self.formatted(format, [pages, [160]], (6, 2, dim), False)
        for count in (300, 512, 1, 290, 1, 17):
            self.check_formatted(stage.step({0: count}))

    @pytest.mark.parametrize("format", FORMATS)
    def test_a_row_over_a_format_does_not_depend_on_its_batch(self, format: str) -> None:
        """To the bit, however the tokens before it were cut into steps."""
        order, others = ORDERS["scattered"], [[40, 41, 42, 43], [50, 60, 51, 61]]
        for count in (1, 2, 20):
            outs = []
            for tables, first, beside in (([order], (30,), {}), ([order, *others], (13, 17), {1: 3, 2: 1})):
                stage = self.formatted(format, tables, (6, 2, 32), True)
                heads = (stage.heads, stage.kv_heads, stage.kv_heads)
                new = [torch.randn(30 + count, n, 32, generator=torch.Generator().manual_seed(n)) for n in heads]
                cache, start = stage.caches[0], 0
                for tokens in first:
                    q, k, v = (x[start : start + tokens] for x in new)
                    make_step(cache, [(0, [0] * tokens)]).attend(0, q, k, v)
                    start += tokens
                counts = {**dict(list(beside.items())[:1]), 0: count, **dict(list(beside.items())[1:])}
                step = make_step(cache, [(row, [0] * n) for row, n in counts.items()])
                rows = step.inputs.query_start[list(counts).index(0)] + np.arange(count)
                given = [stage._random(int(step.inputs.query_start[-1]), n).clone() for n in heads]
                for target, source in zip(given, new, strict=True):
                    target[rows] = source[30:]
                q, k, v = given
                outs.append(step.attend(0, q, k, v)[rows])
            assert torch.equal(*outs)

    def formatted(
        self, name: str, tables: Sequence[Sequence[int]], shape: tuple[int, int, int], factors: bool, **rules: Any
    ) -> _Stage:
        """A stage over storage in that format; skipped where the back end says that it cannot read it."""
        host = PluginHost.discover(self.plugins, strict=True)
        if not host.attention_backends.get(self.attention).component.reads_formats:
            pytest.skip("it does not say that it reads formats, so that it is not asked to")
        layer = CacheLayer(kv_heads=shape[1], head_dim=shape[2], **rules)
        format: BuiltCacheFormat = NibbleFormat()
        if name in host.of(CacheFormat):
            format = host.build(
                host.of(CacheFormat).get(name), CacheFormatContext(layers=(layer,), device=torch.device("cpu"))
            )
        own = CacheFactors(torch.linspace(0.3, 2.0, shape[1]), torch.linspace(1.7, 0.2, shape[1]))
        try:
            return _Stage(self, tables, shape, format=format, factors=(own,) if factors else (), **rules)
        except Unavailable:
            pytest.skip("declared to be unavailable, so that another back end serves")

    def check_formatted(self, pair: tuple[Tensor, Tensor]) -> None:
        result, expected = pair
        torch.testing.assert_close(result.float(), expected.float(), atol=self.format_tolerance, rtol=0)

    def check(self, pair: tuple[Tensor, Tensor]) -> None:
        result, expected = pair
        torch.testing.assert_close(result.float(), expected.float(), atol=self.tolerance, rtol=0)
