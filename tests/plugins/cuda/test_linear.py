"""The kernels over codes, in Triton's interpreter; those marked gpu, on a device."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from maxserve import LinearMethod, hookimpl
from maxserve.core.registry.protocol import Host
from maxserve.interfaces.codes import Codes, CodesLayout
from maxserve.interfaces.errors import ModelError, Unavailable
from maxserve.interfaces.linear import BuiltLinearMethod, LinearContext
from maxserve.plugins.cuda.codes import StoredCodes
from maxserve.plugins.cuda.float8 import Float8Rows
from maxserve.plugins.cuda.linear import FEW, DeviceCodes, Kernels, TritonMethod
from maxserve.testing import LinearMethodChecks
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.codes import CODES, random_codes
from maxserve.testing.linear import CODE_SIZES
from maxserve.testing.served import Served
from maxserve.testing.tiny_configs import tiny_config

CPU = torch.device("cpu")
FEW_ROWS = (1, 17, FEW, FEW + 1)


class TestTriton(LinearMethodChecks):
    method = "triton"
    row_independent = False  # from some number of rows on, torch multiplies

    @pytest.mark.parametrize(
        ("kind", "size"),
        [(kind, size) for kind in CODES for size in CODE_SIZES[:-1]]
        + [(kind, CODE_SIZES[-1]) for kind in ("4 bits", "5 bits in groups of 16", "6 bits in blocks")],
        ids=str,
    )
    def test_codes_are_multiplied_as_what_they_mean(
        self, built: BuiltLinearMethod, kind: str, size: tuple[int, int]
    ) -> None:
        """The interpreter takes seconds for the largest; all kinds meet several blocks in test_products_in_16_bits."""
        super().test_codes_are_multiplied_as_what_they_mean(built, kind, size)


def method(compute: torch.dtype, device: torch.device = CPU) -> TritonMethod:
    return TritonMethod(LinearContext(compute=compute, device=device))


def loaded(codes: Codes, compute: torch.dtype, device: torch.device = CPU) -> DeviceCodes:
    outputs, inputs = codes.codes.shape
    made = method(compute, device).create_codes(outputs, inputs, [codes.layout])
    assert made is not None
    made.load_codes(codes, 0)
    return made


def rms_error(result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> float:
    """The size of what a product is off by, in sizes of the product in float64."""
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    return float((result.double().cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("kind", "compute"), [*((kind, torch.bfloat16) for kind in CODES), ("4 bits in blocks with offsets", torch.float16)]
)
def test_products_in_16_bits(kind: str, compute: torch.dtype) -> None:
    """Few rows by the kernel, their inputs in two parts, more by torch."""
    codes = random_codes(kind, 70, 512)
    made, bias = loaded(codes, compute), torch.randn(70).to(compute)
    for rows in FEW_ROWS:
        x = torch.randn(rows, 518)[:, 3:-3].to(compute)
        result = made.multiply(x, None if rows == FEW else bias)
        assert result.dtype == compute
        assert rms_error(result, x, codes.values(), None if rows == FEW else bias) < 1e-2


@pytest.mark.parametrize("kind", ["4 bits", "6 bits in blocks", "8 bits by a table"])
def test_a_row_of_few_does_not_depend_on_the_others(kind: str) -> None:
    codes = random_codes(kind, 37, 512)
    made, x = loaded(codes, torch.float32), torch.randn(16, 512)
    whole = made.multiply(x, None)
    for rows in (1, 2, 9):
        assert torch.equal(made.multiply(x[:rows], None), whole[:rows])


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("2 bits", 4), ("4 bits", 4), ("5 bits", 5), ("5 bits by a table", 5), ("6 bits in blocks", 6), ("7 bits", 8)],
)
def test_codes_take_the_bits_that_they_have(kind: str, bits: int) -> None:
    """Beside them are numbers of groups, as narrow as they came."""
    codes = random_codes(kind, 64, 1024)
    stored = loaded(codes, torch.float32)
    given = (codes.scales, codes.offsets, codes.zeros, codes.block_scales, codes.block_offsets)
    numbers = sum(each.nbytes for each in given if each is not None)
    assert stored.nbytes <= 64 * 1024 * bits // 8 + numbers + 4 * len(codes.table)


def test_numbers_that_are_wider_in_some_experts_are_kept_exactly() -> None:
    first, second = random_codes("4 bits", 20, 128), random_codes("4 bits", 20, 128, seed=1)
    second = replace(second, scales=torch.rand(20, 4) / 3)
    made = method(torch.float32).create_expert_codes(2, 20, 128, [first.layout])
    assert made is not None
    made.load_codes(0, first, 0)
    made.load_codes(1, second, 0)
    x = torch.randn(5, 128)
    result = made.multiply(x, torch.tensor([2, 5]), None)
    assert rms_error(result[:2], x[:2], first.values()) < 1e-6
    assert rms_error(result[2:], x[2:], second.values()) < 1e-6


def test_experts_may_have_orders_of_their_own() -> None:
    parts = [random_codes("4 bits with zeros and an order", 20, 256, seed=seed) for seed in range(3)]
    made = method(torch.bfloat16).create_expert_codes(3, 20, 256, [parts[0].layout])
    assert made is not None
    for expert, part in enumerate(parts):
        made.load_codes(expert, part, 0)
    x = torch.randn(50, 256).bfloat16()
    result = made.multiply(x, torch.tensor([7, 7, 50]), None)
    assert rms_error(result[:7], x[:7], parts[0].values()) < 1e-2
    assert rms_error(result[7:], x[7:], parts[2].values()) < 1e-2


@pytest.mark.parametrize("load", ["shape", "form", "past the end"])
def test_codes_of_another_kind_among_experts_are_refused(load: str) -> None:
    made = method(torch.float32).create_expert_codes(2, 20, 128, [CodesLayout(levels=16, group=32)])
    assert made is not None
    made.load_codes(0, random_codes("4 bits", 20, 128), 0)
    other = random_codes("4 bits" if load != "form" else "4 bits by a table", 10 if load == "shape" else 20, 128)
    with pytest.raises(ModelError, match="are loaded"):
        made.load_codes(1, other, 20 if load == "past the end" else 0)


def test_codes_past_the_end_are_refused() -> None:
    made = method(torch.float32).create_codes(30, 128, [CodesLayout(levels=16, group=32)])
    assert made is not None
    with pytest.raises(ModelError, match="rows 20 to 40 of codes are loaded into 30"):
        made.load_codes(random_codes("4 bits", 20, 128), 20)


def test_no_rows_and_an_empty_batch_of_experts() -> None:
    codes = random_codes("4 bits", 20, 128)
    assert loaded(codes, torch.bfloat16).multiply(torch.empty(0, 3, 128).bfloat16(), None).shape == (0, 3, 20)
    experts = method(torch.bfloat16).create_expert_codes(1, 20, 128, [codes.layout])
    assert experts is not None
    experts.load_codes(0, codes, 0)
    assert experts.multiply(torch.empty(0, 128).bfloat16(), torch.tensor([0]), None).shape == (0, 20)


def float8(rows: int, inputs: int) -> Codes:
    """Weights of float8_e4m3fn with a scale a row, as checkpoints have them."""
    table = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    values = (torch.randn(rows, inputs) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
    return Codes(codes=values.view(torch.uint8), table=table, group=inputs, scales=torch.rand(rows, 1) / 100 + 0.001)


class TestFloat8:
    """Rows are rounded to float8_e4m3fn too; torch's own arithmetic stands for the units of a device."""

    def test_products_are_within_what_rounded_rows_are_off_by(self) -> None:
        codes, bias = float8(48, 320), torch.randn(48).bfloat16()
        made = loaded(codes, torch.bfloat16)
        assert [type(part) for _, part in made._parts] == [Float8Rows]
        for rows in (1, 5, 100):
            x = torch.randn(rows, 320).bfloat16()
            x[0] = 0
            result = made.multiply(x, bias)
            assert result.dtype == torch.bfloat16
            assert torch.equal(result[0], bias)
            if rows > 1:
                assert rms_error(result, x, codes.values(), bias) < 5e-2
        ids = torch.tensor([0, 47, 3])
        assert torch.equal(made.embedding(ids), codes.values()[ids])

    def test_a_large_row_leaves_the_others_their_digits(self) -> None:
        """A scale is that of a row."""
        codes, x = float8(32, 64), torch.randn(4, 64).bfloat16()
        x[1] *= 1e4
        result = loaded(codes, torch.bfloat16).multiply(x, None)
        for row in range(4):
            assert rms_error(result[row : row + 1], x[row : row + 1], codes.values()) < 6e-2

    @pytest.mark.parametrize("size", [(40, 64), (48, 72)], ids=str)
    def test_other_sizes_are_multiplied_as_codes(self, size: tuple[int, int]) -> None:
        codes = float8(*size)
        made, x = loaded(codes, torch.bfloat16), torch.randn(5, size[1]).bfloat16()
        assert not any(isinstance(part, Float8Rows) for _, part in made._parts)
        assert rms_error(made.multiply(x, None), x, codes.values()) < 1e-2

    @pytest.mark.parametrize("compute", [torch.float32, torch.float16])
    def test_so_are_rows_of_other_types(self, compute: torch.dtype) -> None:
        made = loaded(float8(48, 64), compute)
        assert not any(isinstance(part, Float8Rows) for _, part in made._parts)

    def test_where_units_cannot_be_had_they_are_multiplied_as_codes(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def scaled_mm(*arguments: object, **named: object) -> None:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

        monkeypatch.setattr(torch.nn.functional, "scaled_mm", scaled_mm)
        caplog.set_level(logging.INFO, logger="maxserve.cuda")
        codes, x = float8(48, 64), torch.randn(5, 64).bfloat16()
        made = loaded(codes, torch.bfloat16)
        assert rms_error(made.multiply(x, None), x, codes.values()) < 1e-2
        assert "CUBLAS_STATUS_NOT_SUPPORTED; weights of float8_e4m3fn are multiplied as codes" in caplog.text

    def test_parts_of_a_projection_have_their_own_scales(self) -> None:
        first, second = float8(32, 64), float8(16, 64)
        made = method(torch.bfloat16).create_codes(48, 64, [first.layout, second.layout])
        assert made is not None
        made.load_codes(second, 32)
        made.load_codes(first, 0)
        x = torch.randn(7, 64).bfloat16()
        assert rms_error(made.multiply(x, None), x, torch.cat((first.values(), second.values()))) < 5e-2


def test_it_is_unavailable_where_there_is_no_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("maxserve.plugins.cuda.kernels", raising=False)
    monkeypatch.setitem(sys.modules, "maxserve.plugins.cuda.kernels", None)
    with pytest.raises(Unavailable, match=r"Triton cannot be imported .*; pip install triton"):
        method(torch.bfloat16)


@pytest.mark.parametrize(
    ("breaks", "message"),
    [
        ("raises", "Triton's kernels cannot be had here: RuntimeError: no C compiler"),
        ("is wrong", "Triton's kernels are wrong here: 0.0 came out where 192 is due"),
    ],
)
def test_it_is_unavailable_where_kernels_do_not_work(
    breaks: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def multiply(self: Kernels, stored: StoredCodes, x: Tensor, bias: Tensor | None, out: Tensor) -> None:
        if breaks == "raises":
            raise RuntimeError("no C compiler\nis installed")
        out.zero_()

    monkeypatch.setattr(Kernels, "multiply", multiply)
    with pytest.raises(Unavailable, match=f"^{message}$"):
        method(torch.bfloat16)


@pytest.fixture
def interpreted(plugin_host: Callable[..., Host]) -> Host:
    """A host whose linear method is that of CUDA devices, on a CPU."""
    here = LinearMethod(name="here", build="maxserve.plugins.cuda.linear:TritonMethod", devices=("cpu",), priority=99)
    return plugin_host(SimpleNamespace(maxserve_linear_methods=hookimpl(lambda: [here])))


@pytest.mark.parametrize(
    ("family", "encoding"),
    [("LlamaForCausalLM", "q4_0"), ("LlamaForCausalLM", "float8_e4m3fn"), ("Qwen3MoeForCausalLM", "q5_1")],
)
def test_a_model_is_served_with_it(family: str, encoding: str, interpreted: Host, tmp_path: Path) -> None:
    """Rounded while it is loaded; the answers are those of weights that were decoded."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2}
    model: Any = randomised(ArchitectureChecks.reference(tiny_config(family, architectures=[family], **sizes)))
    model.save_pretrained(tmp_path)
    prompt = torch.randint(2, 90, (20,), generator=torch.Generator().manual_seed(1)).tolist()
    found = Served(tmp_path, interpreted, quantization_encoding=encoding).answers([prompt], 4)[0]
    decoded = Served(tmp_path, interpreted, quantization_encoding=encoding, linear_method="none")
    expected = decoded.answers([prompt], 4)[0]
    assert (found.error, expected.error) == (None, None)
    assert found.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(found.logprobs, expected.logprobs, strict=True)) < 1e-4


COMPILE = Path(__file__).with_name("compile_kernels.py")


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_variants_compile_for_devices_that_are_not_here(capability: int, tmp_path: Path) -> None:
    """In a process in which Triton interprets nothing."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, str(COMPILE), str(capability)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert (ran.returncode, ran.stdout) == (0, "compiled\n"), ran.stderr[-3000:]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnADevice:
    """The same products where they are meant to run."""

    @pytest.mark.parametrize("compute", [torch.bfloat16, torch.float16])
    def test_products(self, compute: torch.dtype) -> None:
        for kind in CODES:
            codes = random_codes(kind, 200, 2048)
            made = loaded(codes, compute, torch.device("cuda"))
            for rows in FEW_ROWS:
                x = torch.randn(rows, 2048).to(compute)
                assert rms_error(made.multiply(x.cuda(), None), x, codes.values()) < 1e-2, f"{rows} rows, {kind}"

    def test_products_of_experts(self) -> None:
        parts = [random_codes("4 bits", 80, 256, seed=seed) for seed in range(4)]
        made = method(torch.bfloat16, torch.device("cuda")).create_expert_codes(4, 80, 256, [parts[0].layout])
        assert made is not None
        for expert, part in enumerate(parts):
            made.load_codes(expert, part, 0)
        x = torch.randn(90, 256).bfloat16()
        result = made.multiply(x.cuda(), torch.tensor([0, 50, 50, 90]).cuda(), None)
        assert rms_error(result[:50], x[:50], parts[1].values()) < 1e-2
        assert rms_error(result[50:], x[50:], parts[3].values()) < 1e-2

    def test_products_in_float8(self) -> None:
        codes = float8(256, 512)
        made = loaded(codes, torch.bfloat16, torch.device("cuda"))
        for rows in (1, 17, 300):
            x = torch.randn(rows, 512).bfloat16()
            assert rms_error(made.multiply(x.cuda(), None), x, codes.values()) < 5e-2
