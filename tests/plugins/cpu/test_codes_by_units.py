"""Rows of prompts by codes on matrix units: as exact as without them, and a row does not depend on those beside it."""

from __future__ import annotations

from dataclasses import replace

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

ROWS = (1, 2, 5, 6, 16, 17, 32, 33, 49, 97)


def panels(codes: Codes, precision: str = "exact") -> CodePanels:
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


@pytest.mark.parametrize("inputs", [32, 256, 640])
@pytest.mark.parametrize("kind", CODES)
def test_products_are_those_of_float32(kind: str, inputs: int) -> None:
    codes, x, bias = random_codes(kind, 70, inputs), torch.randn(max(ROWS), inputs + 3)[:, 2:-1], torch.randn(70)
    made = panels(codes)
    whole = made.multiply(x, bias, many=True)
    expected = x.double() @ codes.values().double().T + bias.double()
    torch.testing.assert_close(whole.double(), expected, atol=2e-5 * inputs**0.5, rtol=0)
    assert (whole.double() - expected).norm() <= 2 * (made.multiply(x, bias).double() - expected).norm() + 1e-6
    for rows in ROWS:
        assert torch.equal(made.multiply(x[:rows], bias, many=True), whole[:rows])
        assert torch.equal(made.multiply(x[:rows].flip(0), bias, many=True)[-1], whole[0])


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
