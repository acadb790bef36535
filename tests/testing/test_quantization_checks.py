"""The checks of quantization formats take what is right and find what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationFormat
from maxserve.testing.quantization import NibbleFormat, QuantizationFormatChecks, quantize


class TestNibbles(QuantizationFormatChecks):
    component = QuantizationFormat(name="nibbles", build=NibbleFormat)
    config: ClassVar[Mapping[str, Any]] = {"quant_method": "nibbles"}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        return quantize(weight)


class TestFp8(QuantizationFormatChecks):
    quantization_format = "fp8"
    config: ClassVar[Mapping[str, Any]] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
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
    tolerance = 0.35
    stacked = True

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        groups = weight.view(len(weight), -1, 32)
        powers = torch.ceil(torch.log2(groups.abs().amax(-1) / 6))
        numbers = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
        scaled = groups / torch.exp2(powers)[..., None]
        codes = (scaled.abs()[..., None] - numbers).abs().argmin(-1) + 8 * (scaled < 0)
        blocks = (codes[..., ::2] | codes[..., 1::2] << 4).to(torch.uint8)
        return {"blocks": blocks, "scales": (powers + 127).to(torch.uint8)}


class Swapped(NibbleFormat):
    """Takes the upper nibble first."""

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        codes = tensors["codes"]
        return super().unpack({**tensors, "codes": (codes >> 4) | (codes << 4)})


class Careless(NibbleFormat):
    """Looks at no sizes."""

    def unpack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        rows = min(map(len, tensors.values()))
        return super().unpack({role: tensor[:rows] for role, tensor in tensors.items()})


class Halved(NibbleFormat):
    """Says the shape of the codes."""

    def shape(self, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
        return shapes["codes"]


class Greedy(NibbleFormat):
    """Takes every tensor for its own."""

    def weight(self, tensor: str, dtype: str) -> str | None:
        return super().weight(tensor, dtype) or tensor


class Untyped(NibbleFormat):
    """Names another type."""

    types = frozenset({"I8"})


class Forgetful(NibbleFormat):
    """Does not know its zeros again."""

    def weight(self, tensor: str, dtype: str) -> str | None:
        return None if tensor.endswith(".zero") else super().weight(tensor, dtype)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Swapped, "test_the_weight_comes_out"),
        (Careless, "test_tensors_that_do_not_fit_are_refused"),
        (Halved, "test_the_weight_comes_out"),
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
