"""Rows by codes on matrix units: as exact as without them, and a row does not depend on those beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
from maxserve.registry import Host
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.codes import CODES, random_codes
from maxserve.testing.served import Served
from maxserve.testing.tiny_configs import tiny_config

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


def signed_scales(codes: Codes) -> Codes:
    """The same with scales that are also below 0, down to the least of a byte."""
    scales = codes.scales.short() * 4 - 128
    return replace(codes, scales=scales.clamp(-128, 127).to(torch.int8))


def widest(codes: Codes) -> Codes:
    """The same with the largest scales of a byte without a sign."""
    return replace(codes, scales=255 - codes.scales)


def permuted(codes: Codes) -> Codes:
    return replace(codes, order=torch.randperm(codes.codes.shape[1]))


BLOCKS: list[tuple[str, Callable[[Codes], Codes]]] = [
    ("4 bits in blocks with offsets", lambda codes: codes),
    ("4 bits in blocks with offsets", signed_scales),
    ("4 bits in blocks with offsets", widest),
    ("4 bits in blocks with offsets", permuted),
    ("6 bits in blocks", lambda codes: codes),
    ("3 bits in blocks", lambda codes: codes),
]


@pytest.mark.parametrize("inputs", [256, 768])
@pytest.mark.parametrize("kind", range(len(BLOCKS)))
def test_blocks_are_as_exact_as_float32_however_many_rows_there_are(kind: int, inputs: int) -> None:
    name, changed = BLOCKS[kind]
    codes = changed(random_codes(name, 70, inputs))
    x = torch.randn(max(ROWS), inputs) * torch.logspace(-6, 3, max(ROWS))[:, None]
    weight, made = codes.values(), panels(codes, "auto")
    expected = x.double() @ weight.double().T
    whole = made.multiply(x, None, many=True)
    assert ((whole - expected).norm(dim=1) <= 2 * (x @ weight.T - expected).norm(dim=1)).all()
    for rows in ROWS:
        assert torch.equal(made.multiply(x[-rows:], None, many=True), whole[-rows:])
    if library_for(Context()).ms_byte_units():
        assert not torch.equal(whole, made.multiply(x, None)), "they are multiplied otherwise than a few"


def test_the_largest_of_all_numbers_have_room() -> None:
    """Sums of a block of codes of 8 bits, each of the largest size, with scales of that, too."""
    levels = torch.arange(256.0) - 128
    for code, scale, of in (
        (0, 255, torch.uint8),
        (255, 255, torch.uint8),
        (0, -128, torch.int8),
        (255, 127, torch.int8),
    ):
        codes = Codes(
            codes=torch.full((40, 256), code, dtype=torch.uint8),
            table=levels,
            group=32,
            scales=torch.full((40, 8), scale).to(of),
            block=8,
            block_scales=torch.ones(40, 1),
        )
        made, x = panels(codes, "auto"), torch.ones(20, 256)
        x[1::2] = -1
        expected = x.double() @ codes.values().double().T
        torch.testing.assert_close(made.multiply(x, None, many=True).double(), expected, rtol=1e-6, atol=0)


def test_drafts_meet_codes_as_decoding_does(plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    """To the bit, while prompts go block by block."""
    config = tiny_config("LlamaForCausalLM", hidden_size=256, intermediate_size=512, architectures=["LlamaForCausalLM"])
    model: Any = randomised(ArchitectureChecks.reference(config))
    model.save_pretrained(tmp_path)
    options: dict[str, Any] = {"quantization_encoding": "q4_k", "max_batch_input_tokens": 256}
    prompts = [[3, 4, 5, 6] * 6, list(range(7, 40))]
    expected = Served(tmp_path, plugin_host(), **options).answers(prompts, 40)
    served = Served(tmp_path, plugin_host(), speculative_method="ngram", **options)
    assert served.answers(prompts, 40) == expected, "tokens, and their log probabilities to the bit"
    assert served.engine.stats().draft_tokens > 0


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
