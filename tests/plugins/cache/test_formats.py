"""Formats of keys and values: what is stored is near to what was given, as near as is said."""

from __future__ import annotations

import pytest
import torch

from maxserve.interfaces.cache import CacheFormatContext, CacheLayer
from maxserve.interfaces.errors import Unavailable
from maxserve.plugins.cache.formats import Int8Format
from maxserve.testing import CacheFormatChecks

CPU = torch.device("cpu")


class TestFloat32(CacheFormatChecks):
    format = "float32"
    tolerance = 0.0


class TestBfloat16(CacheFormatChecks):
    format = "bfloat16"
    tolerance = 2.0**-8


class TestFloat8(CacheFormatChecks):
    format = "float8_e4m3fn"
    tolerance = 2.0**-4


class TestInt8(CacheFormatChecks):
    format = "int8"
    tolerance = 1 / 254 + 1e-6


def int8() -> Int8Format:
    return Int8Format(CacheFormatContext(layers=(), device=CPU))


@pytest.mark.parametrize("head", [[0.0, 0.0], [1e-40, 3e-42], [3e38, -2e38], [5e-45, 1e-45]])
def test_heads_of_extreme_numbers_are_stored(head: list[float]) -> None:
    codes, scales = int8().encode(torch.tensor([head]))
    assert codes.abs().max() <= 127
    found = int8().decode(codes, scales)
    assert found.isfinite().all()
    assert (found - torch.tensor([head])).abs().max() <= max(map(abs, head)) * 0.5 + 1e-38  # denormal scales are coarse


@pytest.mark.parametrize("damage", [float("inf"), -float("inf"), float("nan")])
def test_a_head_with_a_number_that_is_not_finite_has_no_scale(damage: float) -> None:
    _, scales = int8().encode(torch.tensor([[1.0, damage], [1.0, 2.0]]))
    assert scales.isnan().tolist() == [True, False]


@pytest.mark.parametrize(
    "layer",
    [
        CacheLayer(kv_heads=1, head_dim=24, value_dim=16, values_in_keys=True),
        CacheLayer(kv_heads=2, head_dim=24, index_dim=4, index_top=2),
    ],
    ids=["values in keys", "an index"],
)
def test_layers_without_a_scale_of_their_own_for_each_part_are_refused(layer: CacheLayer) -> None:
    with pytest.raises(Unavailable, match="no scale of their own for each part"):
        Int8Format(CacheFormatContext(layers=(layer,), device=CPU))
