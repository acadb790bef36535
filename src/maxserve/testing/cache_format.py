"""Checks of cache formats.

class TestMine(CacheFormatChecks):
    format = "mine"
    tolerance = 0.1
"""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.cache import (
    BuiltCacheFormat,
    CacheContext,
    CacheFormat,
    CacheFormatContext,
    CacheLayer,
    token_bytes,
)
from maxserve.plugins.attention.paged import PagedAttention
from maxserve.plugins.cache.paged.storage import allocate
from maxserve.testing.resolve import load, resolve
from maxserve.testing.tiny_cache import PlainAttention, TinyCache, make_step

CPU = torch.device("cpu")


class CacheFormatChecks:
    """Subclass it and name a registered `format`, or give the `component` itself.

    `tolerance`: the largest error of a number, as a part of the largest of its head. `sections` are the plugin's
    settings, by schema.
    """

    format: ClassVar[str] = ""
    component: ClassVar[CacheFormat | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    tolerance: ClassVar[float] = 0.1
    layer: ClassVar[CacheLayer] = CacheLayer(kv_heads=2, head_dim=32)

    def built(self) -> BuiltCacheFormat:
        """The format for one layer."""
        context = CacheFormatContext(sections=self.sections, layers=(self.layer,), device=CPU)
        built: BuiltCacheFormat = load(resolve(CacheFormat, self.format, self.component).build)(context)
        return built

    @pytest.mark.parametrize("size", [32, 64, 128])
    @pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
    def test_heads_come_back_nearly_as_they_were(self, given: torch.dtype, size: int) -> None:
        format, x = self.built(), _heads(7, 3, size).to(given)
        codes, scales = format.encode(x)
        assert (codes.dtype, codes.shape) == (format.dtype, (7, 3, format.width(size)))
        assert (None if scales is None else scales.dtype) == format.scale_dtype
        assert scales is None or scales.shape == (7, 3)
        found = format.decode(codes, scales)
        assert (found.dtype, found.shape) == (torch.float32, x.shape)
        largest = x.float().abs().amax(-1, keepdim=True)
        assert ((found - x.float()).abs() <= self.tolerance * largest).all()

    def test_a_head_does_not_depend_on_others(self) -> None:
        """To the bit: tokens are stored in other company when they are computed again."""
        format, x = self.built(), _heads(9, 2, 32)
        whole, alone = self._again(format, x), torch.cat([self._again(format, row[None]) for row in x])
        assert torch.equal(whole, alone)

    def test_what_is_no_number_does_not_become_one(self) -> None:
        """A model that went wrong must not look as if it had not."""
        format, x = self.built(), _heads(1, 2, 32)
        x[0, 0, 5] = torch.nan
        found = self._again(format, x)
        assert found[0, 0].isnan().any()
        assert found[0, 1].isfinite().all()

    def test_storage_that_was_never_written_is_finite(self) -> None:
        """It is read with the rest of a page before it is masked."""
        format = self.built()
        (made,) = allocate(self._cache_context(format))
        assert format.decode(made.keys, made.key_scales).isfinite().all()
        assert format.decode(made.values, made.value_scales).isfinite().all()
        held = sum(part.nbytes for part in made.parts)
        assert held == 3 * 4 * token_bytes(self.layer, format)

    def test_attention_reads_it(self) -> None:
        """torch's, beside the textbook, over the same codes."""
        results = []
        for attention in (PagedAttention, PlainAttention):
            cache = TinyCache([self.layer], rows=1, scatter=2, attention=attention, format=self.built())
            assert isinstance(cache.attention, attention)
            outs = []
            for count in (20, 1, 7):
                step = make_step(cache, [(0, [0] * count)])
                q, k, v = (_heads(count, heads, 32) for heads in (4, 2, 2))
                outs.append(step.attend(0, q, k, v))
            results.append(torch.cat(outs))
        torch.testing.assert_close(*results, atol=4e-6, rtol=0)

    def _again(self, format: BuiltCacheFormat, x: Tensor) -> Tensor:
        return format.decode(*format.encode(x))

    def _cache_context(self, format: BuiltCacheFormat) -> CacheContext:
        return CacheContext(
            layers=(self.layer,),
            pages=3,
            page_size=4,
            rows=1,
            max_length=12,
            dtype=format.dtype,
            device=CPU,
            format=format,
        )


def _heads(tokens: int, heads: int, size: int) -> Tensor:
    return torch.randn(tokens, heads, size, generator=torch.Generator().manual_seed(tokens + size))
