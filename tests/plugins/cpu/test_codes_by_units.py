"""Rows by codes on matrix units: as exact as without them, and a row does not depend on those beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from maxserve.interfaces.codes import Codes
from maxserve.interfaces.component import Context
from maxserve.interfaces.linear import LinearContext
from maxserve.plugins.cpu import Config
from maxserve.plugins.cpu.codes import CodePanels
from maxserve.plugins.cpu.library import library_for
from maxserve.plugins.cpu.linear import PanelMethod
from maxserve.testing.codes import CODES, random_codes

pytestmark = pytest.mark.compiler

ROWS = (1, 2, 3, 5, 6, 8, 9, 16, 17, 32, 33, 49, 97)
PRECISIONS: list[Any] = ["auto", "exact"]
COUNTED = [
    "4 bits",
    "4 bits in blocks with offsets",
    "5 bits",
    "6 bits in blocks",
    "8 bits",
    "4 bits with zeros and an order",
]


def panels(codes: Codes, precision: Any = "exact") -> CodePanels:
    context = LinearContext(
        compute=torch.float32, device=torch.device("cpu"), sections={Config: Config(precision=precision)}
    )
    made = PanelMethod(context).create_codes(*codes.codes.shape, [codes.layout])
    assert made is not None
    made.load_codes(codes, 0)
    return made


def needs_units() -> None:
    if not library_for(Context()).ms_matrix_units():
        pytest.skip("this processor has no matrix units")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("inputs", [32, 256, 640])
@pytest.mark.parametrize("kind", CODES)
def test_products_are_those_of_float32(kind: str, inputs: int, precision: Any) -> None:
    codes, x, bias = random_codes(kind, 70, inputs), torch.randn(max(ROWS), inputs + 3)[:, 2:-1], torch.randn(70)
    made = panels(codes, precision)
    whole = made.multiply(x, bias, many=True)
    expected = x.double() @ codes.values().double().T + bias.double()
    torch.testing.assert_close(whole.double(), expected, atol=2e-5 * inputs**0.5, rtol=0)
    assert (whole.double() - expected).norm() <= 2 * (made.multiply(x, bias).double() - expected).norm() + 1e-6
    for rows in ROWS:
        assert torch.equal(made.multiply(x[:rows], bias, many=True), whole[:rows])
        assert torch.equal(made.multiply(x[:rows].flip(0), bias, many=True)[-1], whole[0])


@pytest.mark.parametrize("kind", COUNTED)
def test_whole_numbers_are_as_exact_as_float32_however_many_rows_there_are(kind: str) -> None:
    codes, x = random_codes(kind, 70, 640), torch.randn(max(ROWS), 640) * torch.logspace(-6, 3, max(ROWS))[:, None]
    weight, made = codes.values(), panels(codes, "auto")
    expected = x.double() @ weight.double().T
    whole = made.multiply(x, None)
    errors = (whole.double() - expected).norm(dim=1)
    assert (errors <= 2 * (x @ weight.T - expected).norm(dim=1)).all()
    for rows in ROWS:
        for many in (False, True):
            assert torch.equal(made.multiply(x[-rows:], None, many=many), whole[-rows:])


@pytest.mark.parametrize("kind", COUNTED)
def test_whole_numbers_are_multiplied_where_units_are(kind: str) -> None:
    """Their sums are others than those of float32."""
    needs_units()
    codes, x = random_codes(kind, 70, 640), torch.randn(7, 640)
    assert not torch.equal(panels(codes, "auto").multiply(x, None), panels(codes, "exact").multiply(x, None))


@pytest.mark.parametrize("base", [-9, -1, 3])
@pytest.mark.parametrize("levels", [16, 256])
def test_codes_may_count_from_anywhere(base: int, levels: int) -> None:
    codes, x = random_codes("8 bits" if levels > 16 else "4 bits", 40, 96), torch.randn(max(ROWS), 96)
    codes = replace(codes, table=base + torch.arange(float(levels)))
    made = panels(codes, "auto")
    whole = made.multiply(x, None)
    expected = x.double() @ codes.values().double().T
    torch.testing.assert_close(whole.double(), expected, atol=1e-6 * float(expected.abs().max()), rtol=0)
    for rows in ROWS:
        assert torch.equal(made.multiply(x[:rows], None), whole[:rows])


@pytest.mark.parametrize("kind", ["4 bits", "4 bits in blocks with offsets", "5 bits", "8 bits", "floats of 8 bits"])
def test_units_multiply(kind: str) -> None:
    """Their sums are made in another order."""
    needs_units()
    made, x = panels(random_codes(kind, 64, 640)), torch.randn(40, 640)
    assert not torch.equal(made.multiply(x, None, many=True), made.multiply(x, None))


@pytest.mark.parametrize("kind", ["2 bits", "4 bits by a table", "6 bits in blocks"])
def test_small_groups_and_tables_that_bfloat16_has_not_are_multiplied_without_them(kind: str) -> None:
    made, x = panels(random_codes(kind, 64, 640)), torch.randn(40, 640)
    assert torch.equal(made.multiply(x, None, many=True), made.multiply(x, None))


@pytest.mark.parametrize("kind", ["4 bits", "4 bits in blocks with offsets", "8 bits"])
def test_rows_that_are_rounded_are_one_plane(kind: str) -> None:
    needs_units()
    codes, x = random_codes(kind, 64, 640), torch.randn(40, 640)
    expected = x.bfloat16().double() @ codes.values().double().T
    found = panels(codes, "fast").multiply(x, None, many=True)
    torch.testing.assert_close(found.double(), expected, atol=2e-5 * 640**0.5, rtol=0)


def test_not_finite_stays_not_finite() -> None:
    codes, x = random_codes("8 bits", 20, 64), torch.randn(3, 64).abs()
    codes = replace(codes, codes=codes.codes % 100 + 1)
    x[1, 7], x[2, 7] = float("inf"), float("nan")
    out = panels(codes).multiply(x, None, many=True)
    assert out[0].isfinite().all()
    assert (out[1] == float("inf")).all()
    assert out[2].isnan().all()


def test_nothing_comes_of_numbers_that_are_not_finite() -> None:
    """A row of whole numbers has one scale for some inputs, and so no sums but those of finite ones."""
    needs_units()
    made, x = panels(random_codes("4 bits", 20, 64), "auto"), torch.randn(4, 64)
    expected = made.multiply(x, None)
    x[0], x[1, 7], x[2, 7] = 0.0, float("inf"), float("nan")
    out = made.multiply(x, None)
    assert (out[0] == 0).all()
    assert out[1:3].isnan().all()
    assert torch.equal(out[3], expected[3])
