"""AWQ checkpoints compute with scales * (code - zero)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.awq import Awq
from maxserve.testing.quantization import QuantizationFormatChecks, infos

OUTPUTS = (0, 2, 4, 6, 1, 3, 5, 7)  # of the numbers in a word, from the lowest bits on
NAME = "model.layers.1.mlp.up_proj"


def words(numbers: Any) -> Tensor:
    """[n, outputs] numbers in words [n, outputs / 8]."""
    eights = numbers.reshape(len(numbers), -1, 8).astype(np.uint32)
    packed = sum(eights[..., output] << np.uint32(4 * place) for place, output in enumerate(OUTPUTS))
    return torch.from_numpy(np.asarray(packed).view(np.int32))


def packed(shape: tuple[int, int], group: int, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    (outputs, inputs), random = shape, np.random.default_rng(seed + sum(shape))
    groups = inputs // group
    codes, zeros = (random.integers(0, 16, (n, outputs), dtype=np.uint8) for n in (inputs, groups))
    scales = (random.random((groups, outputs)) * 0.03).astype(np.float16)
    group_of = np.arange(inputs) // group
    weight = scales[group_of].astype(np.float32) * (codes.astype(np.float32) - zeros[group_of].astype(np.float32))
    tensors = {"qweight": words(codes), "qzeros": words(zeros), "scales": torch.from_numpy(scales)}
    return tensors, torch.from_numpy(weight.T.copy())


def settings(**changes: Any) -> dict[str, Any]:
    return {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True, **changes}


def format(**changes: Any) -> Awq:
    return Awq(QuantizationContext(model_config={"quantization_config": settings(**changes)}))


@pytest.mark.parametrize("group", [32, 64, 128, 256])
def test_values_are_the_reference(group: int) -> None:
    tensors, weight = packed((64, 256), group)
    built = format(group_size=-1 if group == 256 else group)
    assert built.shape(infos(tensors)) == (64, 256)
    assert torch.equal(built.codes(tensors).values(), weight)


@pytest.mark.parametrize("backend", ["auto", "autoawq", "marlin", "exllama_v2", None])
def test_kernels_that_others_choose_do_not_matter(backend: str | None) -> None:
    tensors, weight = packed((64, 256), 32)
    built = format(backend=backend, format="gemm", checkpoint_format="gemm")
    assert torch.equal(built.codes(tensors).values(), weight)


class TestAwq(QuantizationFormatChecks):
    quantization_format = "awq"
    config: ClassVar[Mapping[str, Any]] = settings()
    names: ClassVar[Mapping[str, str]] = {role: f"{{module}}.{role}" for role in ("qweight", "qzeros", "scales")}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        groups = weight.numpy().reshape(len(weight), -1, 32)
        scales = np.abs(groups).max(2) / 7
        codes = np.rint(groups / scales[..., None]) + 8
        zeros = np.full(scales.T.shape, 8)
        made = {"qweight": words(codes.reshape(weight.shape).T), "qzeros": words(zeros)}
        return made | {"scales": torch.from_numpy(scales.T.astype(np.float16))}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Qwen2ForCausalLM", "MixtralForCausalLM"])
def test_families_are_served(
    model_class: str, compiled: bool, made: Any, serve: Any, same: Any, tmp_path: Path
) -> None:
    """Some modules are not converted: one of a fused projection, too."""

    def pack(name: str, weight: Tensor) -> Any:
        if "layers.0.self_attn.v_proj" in name or "embed" in name or "head" in name or name.endswith("gate.weight"):
            return None
        return packed(tuple(weight.shape), 64)  # type: ignore[arg-type]

    quantization = settings(group_size=64, modules_to_not_convert=["layers.0.self_attn.v_proj", "gate"])
    reference = made(tmp_path, model_class, pack, {}, quantization)
    same(serve(tmp_path, use_subgraphs=compiled, quantization_encoding="awq"), reference)


@pytest.fixture
def tiny(made: Any, tmp_path: Path) -> Path:
    def pack(name: str, weight: Tensor) -> Any:
        return packed(tuple(weight.shape), 32) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    made(tmp_path, "LlamaForCausalLM", pack, {}, settings())
    return tmp_path


@pytest.mark.parametrize("role", ["qweight", "qzeros", "scales"])
@pytest.mark.parametrize("change", ["missing", "cut", "empty", "flat", "transposed"])
def test_tensors_that_do_not_fit_are_named(role: str, change: str, tiny: Path, serve: Any) -> None:
    tensors, name = load_file(tiny / "model.safetensors"), f"{NAME}.{role}"
    whole = tensors.pop(name)
    made = {"cut": whole[1:], "empty": whole[:0], "flat": whole.flatten(), "transposed": whole.t()}
    if change != "missing":
        tensors[name] = made[change].contiguous()
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(ModelError, match=NAME):
        serve(tiny, use_subgraphs=False)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bits", 8, "'bits' of the quantization is 8; what is read is 4"),
        ("w_bit", 3, "'w_bit' of the quantization is 3"),
        ("group_size", "32", "'group_size' of the quantization is '32'"),
        ("version", "gemv", "'version' is 'gemv'"),
        ("version", 2, "'version' is 2"),
        ("backend", "llm-awq", "'backend' is 'llm-awq'"),
        ("format", "gemv_fast", "'format' is 'gemv_fast'"),
        ("checkpoint_format", "marlin", "'checkpoint_format' is 'marlin'"),
    ],
)
def test_settings_that_are_not_read_are_named(key: str, value: object, message: str, tiny: Path, serve: Any) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["quantization_config"][key] = value
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        serve(tiny, use_subgraphs=False)


@pytest.mark.compiler
def test_memory_is_counted_as_it_is_held(held_by_plan: Any) -> None:
    assert 0.95 < held_by_plan(format(), *packed((1024, 1024), 32)) <= 1
