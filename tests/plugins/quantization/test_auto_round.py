"""Checkpoints of AutoRound are those of GPTQ or AWQ under another name; what cannot be told is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.auto_round import auto_round

SETTINGS: Mapping[str, Any] = {"quant_method": "auto-round", "bits": 4, "group_size": 32, "sym": True}


def packed(shape: tuple[int, int], bits: int, stored: int) -> tuple[dict[str, Tensor], Tensor]:
    """A symmetric weight in the layout of GPTQ, whose zeros are stored as that."""
    (outputs, inputs), random, per = shape, np.random.default_rng(sum(shape)), 32 // bits
    codes = random.integers(0, 1 << bits, (inputs, outputs)).astype(np.uint32)
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    qweight = np.bitwise_or.reduce(codes.reshape(-1, per, outputs) << shifts[:, None], axis=1)
    qzeros = np.full((inputs // 32, outputs // per), np.bitwise_or.reduce(np.uint32(stored) << shifts))
    scales = (random.random((inputs // 32, outputs)) * 0.4 / (1 << bits)).astype(np.float16)
    weight = scales.repeat(32, 0).astype(np.float32) * (codes.astype(np.float32) - (1 << bits - 1))
    made = {"qweight": qweight.view(np.int32), "qzeros": qzeros.view(np.int32), "scales": scales}
    return {name: torch.from_numpy(each) for name, each in made.items()}, torch.from_numpy(weight.T.copy())


@pytest.mark.parametrize("method", ["auto-round", "intel/auto-round"])
@pytest.mark.parametrize("stored", [7, 8])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.compiler
def test_symmetric_weights_are_served(
    bits: int, stored: int, method: str, made: Any, serve: Any, same: Any, tmp_path: Path
) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        zero = (stored - 8) + (1 << bits - 1)
        return packed(tuple(weight.shape), bits, zero) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    settings = {**SETTINGS, "bits": bits, "quant_method": method, "backend": "auto", "data_type": "int"}
    reference = made(tmp_path, "LlamaForCausalLM", pack, {}, settings)
    same(serve(tmp_path, quantization_encoding=f"int{bits}"), reference)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"packing_format": "auto_round:llm_compressor"},
            "'packing_format' of AutoRound is 'auto_round:llm_compressor'",
        ),
        ({"data_type": "mx_fp"}, "of 'mx_fp'; what is read is"),
        ({"sym": False}, "use a symmetric checkpoint"),
        ({"sym": False, "packing_format": "auto_round:auto_awq", "bits": 8}, "'bits' of the quantization is 8"),
        ({"bits": 5}, "'bits' of the quantization is 5"),
    ],
)
def test_others_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        auto_round(QuantizationContext(model_config={"quantization_config": {**SETTINGS, **changes}}))


def test_gptqmodel_lies_as_gptq_does() -> None:
    settings = {**SETTINGS, "packing_format": "auto_round:gptqmodel"}
    tensors, weight = packed((64, 256), 4, 7)
    built = auto_round(QuantizationContext(model_config={"quantization_config": settings}))
    assert torch.equal(built.codes(tensors).values(), weight)
    with pytest.raises(ModelError, match="weights in auto_round:gptqmodel have zeros"):
        auto_round(QuantizationContext(model_config={"quantization_config": settings | {"sym": False}}))


def test_the_layout_of_awq_has_zeros_of_its_own() -> None:
    settings = {**SETTINGS, "sym": False, "packing_format": "auto_round:auto_awq"}
    assert auto_round(QuantizationContext(model_config={"quantization_config": settings})).encoding == "awq"
