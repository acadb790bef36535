"""The checks of quantization formats take what is right and find what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.codes import Codes, CodesLayout
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationFormat
from maxserve.core.interfaces.weight_format import TensorInfo
from maxserve.testing.quantization import NibbleFormat, QuantizationFormatChecks, quantize


class TestNibbles(QuantizationFormatChecks):
    component = QuantizationFormat(name="nibbles", build=NibbleFormat)
    config: ClassVar[Mapping[str, Any]] = {"quant_method": "nibbles"}
    names: ClassVar[Mapping[str, str]] = {role: f"{{}}.{role}" for role in ("codes", "scale", "zero")}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        return quantize(weight)


class TestFp8(QuantizationFormatChecks):
    quantization_format = "fp8"
    config: ClassVar[Mapping[str, Any]] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    names: ClassVar[Mapping[str, str]] = {"values": "{}", "scales": "{}_scale_inv"}
    stacked = True

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        rows, columns = weight.shape
        blocks = weight.view(rows // 32, 32, columns // 32, 32)
        scales = blocks.abs().amax((1, 3), keepdim=True) / 448
        values = (blocks / scales).view(rows, columns).to(torch.float8_e4m3fn)
        return {"values": values, "scales": scales[:, 0, :, 0]}


class TestMxfp4(QuantizationFormatChecks):
    quantization_format = "mxfp4"
    config: ClassVar[Mapping[str, Any]] = {"quant_method": "mxfp4"}
    names: ClassVar[Mapping[str, str]] = {"blocks": "{}_blocks", "scales": "{}_scales"}
    tolerance = 0.35
    stacked = True

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        groups = weight.view(len(weight), -1, 32)
        powers = torch.ceil(torch.log2(groups.abs().amax(-1) / 6))
        numbers = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        scaled = groups / torch.exp2(powers)[..., None]
        codes = (scaled.abs()[..., None] - numbers).abs().argmin(-1) + 8 * (scaled < 0)
        blocks = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        return {"blocks": blocks.view(len(blocks), -1, 16), "scales": (powers + 127).to(torch.uint8)}


class Swapped(NibbleFormat):
    """Takes the upper nibble first."""

    def codes(self, tensors: Mapping[str, Tensor]) -> Codes:
        codes = tensors["codes"]
        return super().codes({**tensors, "codes": (codes >> 4) | (codes << 4)})


class Careless(NibbleFormat):
    """Looks at no sizes."""

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        rows, columns = tensors["codes"].shape if "codes" in tensors else (0, 0)
        return rows, 2 * columns


class Halved(NibbleFormat):
    """Says the shape of the codes."""

    def shape(self, tensors: Mapping[str, TensorInfo]) -> tuple[int, ...]:
        return tensors["codes"].shape


class Coarse(NibbleFormat):
    """Says another layout than that of its codes."""

    def layout(self, tensors: Mapping[str, TensorInfo]) -> CodesLayout:
        return CodesLayout(levels=8, group=32)


class Greedy(NibbleFormat):
    """Takes every tensor for its own."""

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return super().part(tensor, dtype) or (tensor, "codes")


class Untyped(NibbleFormat):
    """Names another type."""

    types = frozenset({"I8"})


class Forgetful(NibbleFormat):
    """Does not know its zeros again."""

    def part(self, tensor: str, dtype: str) -> tuple[str, str] | None:
        return None if tensor.endswith(".zero") else super().part(tensor, dtype)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Swapped, "test_the_weight_comes_out"),
        (Careless, "test_tensors_that_do_not_fit_are_refused"),
        (Halved, "test_the_weight_comes_out"),
        (Coarse, "test_the_weight_comes_out"),
        (Greedy, "test_tensors_that_are_not_packed_are_left_alone"),
        (Untyped, "test_types_are_those_of_packed_tensors"),
        (Forgetful, "test_every_tensor_belongs_to_its_weight"),
    ],
)
def test_wrong_formats_are_found(wrong: Any, check: str, plugin_host: Callable[..., Any]) -> None:
    class Checks(TestNibbles):
        component = QuantizationFormat(name="nibbles", build=wrong)

    checks = Checks()
    built = checks.found(checks.host.__wrapped__(checks, plugin_host)).format  # type: ignore[attr-defined]
    given = {"size": (64, 96)} if check == "test_the_weight_comes_out" else {}
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(checks, check)(built, **given)


def test_a_format_that_loses_a_tensor_serves_no_model(plugin_host: Callable[..., Any], tmp_path: Path) -> None:
    class Checks(TestNibbles):
        component = QuantizationFormat(name="nibbles", build=Forgetful)

    checks = Checks()
    host = checks.host.__wrapped__(checks, plugin_host)  # type: ignore[attr-defined]
    with pytest.raises(ModelError):
        checks.test_a_model_in_the_format_computes_with_its_weights(host, tmp_path)


def test_a_format_that_takes_all_checkpoints_is_found(plugin_host: Callable[..., Any]) -> None:
    class Checks(TestNibbles):
        component = QuantizationFormat(name="nibbles", build=NibbleFormat, match=lambda config: True)

    checks = Checks()
    with pytest.raises(AssertionError):
        checks.test_its_checkpoints_are_known_and_no_others(checks.host.__wrapped__(checks, plugin_host))  # type: ignore[attr-defined]
