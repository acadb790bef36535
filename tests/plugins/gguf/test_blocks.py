"""Blocks are decoded to the bit as gguf decodes them, whatever bytes they have."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from maxserve.plugins.gguf.blocks import READERS
from maxserve.plugins.gguf.types import LAYOUTS, TYPES


def test_types_are_those_of_ggml() -> None:
    for number, own in TYPES.items():
        assert Type(number).name == own.name
        assert gguf.GGML_QUANT_SIZES[Type(number)] == (own.values, own.size)


@pytest.mark.parametrize("name", sorted(READERS))
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")  # of gguf, where scales are no numbers
def test_any_bytes_are_decoded(name: str) -> None:
    own = next(own for own in TYPES.values() if own.name == name)
    rows = np.random.default_rng(0).integers(0, 256, (64, 3 * own.size), dtype=np.uint8)
    if name == "NVFP4":
        rows = rows.reshape(64, 3, own.size)
        rows[..., :4] %= 0x7F  # scales have no sign, and no value that is no number
        rows = rows.reshape(64, -1)
    expected = gguf.quants.dequantize(rows, Type[name])
    codes = READERS[name](torch.from_numpy(rows))
    finite = np.isfinite(expected)
    assert finite.mean() > 0.8
    assert codes.values().shape == expected.shape
    assert np.array_equal(codes.values().numpy()[finite], expected[finite])
    assert codes.layout == LAYOUTS[name]
    part = codes.rows(7, 19)
    assert np.array_equal(part.values().numpy(), codes.values().numpy()[7:19], equal_nan=True)
