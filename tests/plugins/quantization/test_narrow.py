from __future__ import annotations

import pytest
import torch

from maxserve.quantization import narrowed


@pytest.mark.parametrize(
    ("numbers", "dtype"),
    [
        ([0.0, 255.0], torch.uint8),
        ([-128.0, 127.0], torch.int8),
        ([-1.0, 128.0], torch.float16),
        ([0.5, 2.0**-14], torch.float16),
        ([1e30, 0.0], torch.float32),
        ([2.0**100, 1.0], torch.bfloat16),
        ([float("nan"), 1.0], torch.float32),
    ],
)
def test_the_first_type_that_has_all(numbers: list[float], dtype: torch.dtype) -> None:
    given = torch.tensor(numbers, dtype=torch.float64)
    narrow = narrowed(given)
    assert narrow.dtype == dtype
    assert torch.equal(narrow.float().nan_to_num(7.0), given.float().nan_to_num(7.0))
