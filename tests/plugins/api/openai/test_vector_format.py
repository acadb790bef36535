"""Types of numbers in answers, compared with torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from maxserve.plugins.api.openai.vector_format import EmbedDtype, VectorFormat

KINDS: dict[EmbedDtype, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("scale", [1e-4, 0.05, 1.0, 100.0])
def test_numbers_are_rounded_as_torch_rounds_them(dtype: EmbedDtype, scale: float) -> None:
    vector = np.random.default_rng(0).standard_normal(5000).astype(np.float32) * np.float32(scale)
    vector[:6] = (0.0, -0.0, 0.5, -1.5, 2.25, 3.0)
    expected = torch.from_numpy(vector).to(KINDS[dtype]).view(torch.uint8).numpy().tobytes()
    assert VectorFormat("bytes", dtype, "native").encoded(vector) == expected


@pytest.mark.parametrize("dtype", ["fp8_e4m3", "fp8_e5m2"])
def test_ties_go_to_even_codes(dtype: EmbedDtype) -> None:
    codes = torch.arange(0x70, dtype=torch.uint8).view(KINDS[dtype]).double().numpy()
    between = ((codes[1:] + codes[:-1]) / 2).astype(np.float32)
    expected = torch.from_numpy(between).to(KINDS[dtype]).view(torch.uint8).numpy().tobytes()
    assert VectorFormat("bytes", dtype, "native").encoded(between) == expected
