"""Methods that store weights in few bits pass the checks of linear methods, and wrong ones do not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.linear import BuiltLinearMethod
from maxserve.testing.linear import LinearMethodChecks, random


class Rounded:
    """A weight in eight bits and a scale for each row."""

    def __init__(self, outputs: int, inputs: int) -> None:
        self.codes = torch.zeros(outputs, inputs, dtype=torch.int8)
        self.scales = torch.zeros(outputs, 1)

    def load_rows(self, rows: Tensor, first: int) -> None:
        scales = rows.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-9) / 127
        self.scales[first : first + len(rows)] = scales
        self.codes[first : first + len(rows)] = (rows.float() / scales).round().to(torch.int8)

    def embedding(self, ids: Tensor) -> Tensor:
        return self.codes[ids].float() * self.scales[ids]

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        weight = (self.codes.float() * self.scales).double()
        out = (x.double().unsqueeze(-2) * weight).sum(-1).float()  # row by row, whatever the others are
        return out if bias is None else out + bias


class EightBits:
    """Stores what comes in whole blocks of eight, as methods in blocks do; the rest stays with the layer."""

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> Rounded | None:
        return Rounded(outputs, inputs) if inputs % 8 == 0 else None


class TestEightBits(LinearMethodChecks):
    method = "eight bits"
    tolerance = 0.05
    rows_tolerance = 0.02

    @pytest.fixture
    def built(self) -> BuiltLinearMethod:
        return EightBits()


class TooFewBits(EightBits):
    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> Rounded | None:
        packed = super().create(outputs, inputs, dtype)
        if packed is not None:
            packed.scales = _Doubled()  # type: ignore[assignment]
        return packed


class _Doubled:
    """Scales that come out twice as large."""

    def __setitem__(self, place: slice, values: Tensor) -> None:
        self.values = values

    def __getitem__(self, ids: Tensor) -> Tensor:
        return torch.full((len(ids), 1), 1.0)

    def __rmul__(self, codes: Tensor) -> Tensor:
        return codes


def test_what_is_off_by_more_is_found() -> None:
    checks = TestEightBits()
    with pytest.raises(AssertionError):
        checks.test_any_number_of_axes(TooFewBits())
    with pytest.raises(AssertionError):
        checks.test_rows_come_out_as_they_were_loaded(TooFewBits(), (64, 48), torch.float32)


def test_a_method_that_stores_nothing_is_found() -> None:
    class Idle(EightBits):
        def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
            return None

    with pytest.raises(AssertionError):
        TestEightBits().test_stores_some_weight(Idle())
    assert random(2, 3).shape == (2, 3)
