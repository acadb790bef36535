"""Checkpoints of Model Optimizer compute with weights times scales times the factor of all scales."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.modelopt import Modelopt
from maxserve.testing.quantization import QuantizationFormatChecks, infos

Packed = tuple[dict[str, Tensor], Tensor]
NAME = "model.layers.1.mlp.down_proj"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def nvfp4(shape: tuple[int, int]) -> Packed:
    random = torch.Generator().manual_seed(sum(shape))
    codes = torch.randint(0, 16, shape, generator=random, dtype=torch.uint8)
    scales = (torch.rand(shape[0], shape[1] // 16, generator=random) * 400).to(torch.float8_e4m3fn)
    factor = torch.tensor(0.000277)
    tensors = {"weight": codes[:, ::2] | codes[:, 1::2] << 4, "weight_scale": scales, "weight_scale_2": factor}
    weight = (factor * scales.float()).repeat_interleave(16, 1) * E2M1[codes.int()]
    return {**tensors, "input_scale": torch.tensor(0.5)}, weight


def fp8(shape: tuple[int, int], kind: str = "FP8") -> Packed:
    random = torch.Generator().manual_seed(sum(shape))
    weight = (torch.randn(shape, generator=random) * 20).to(torch.float8_e4m3fn)
    blocks = (-(-shape[0] // 128), -(-shape[1] // 128))
    size = {"FP8": (), "FP8_PER_CHANNEL_PER_TOKEN": (shape[0],), "FP8_PB_WO": blocks}[kind]
    scales = torch.rand(size, generator=random) * 0.02
    wide = scales if kind == "FP8" else scales[:, None]
    if kind == "FP8_PB_WO":
        wide = scales.repeat_interleave(128, 0)[: shape[0]].repeat_interleave(128, 1)[:, : shape[1]]
        scales = scales[:, None, :, None]
    return {"weight": weight, "weight_scale": scales}, weight.float() * wide


def settings(algorithm: str = "NVFP4", **changes: Any) -> dict[str, Any]:
    return {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"], **changes}


def format(algorithm: object) -> Modelopt:
    return Modelopt(QuantizationContext(model_config={"quantization_config": {"quant_algo": algorithm}}))


FLOATS = ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO")


@pytest.mark.parametrize("algorithm", ["NVFP4", *FLOATS])
@pytest.mark.parametrize("shape", [(64, 96), (200, 144), (128, 256)])
def test_values_are_the_reference(algorithm: str, shape: tuple[int, int]) -> None:
    tensors, weight = nvfp4(shape) if algorithm == "NVFP4" else fp8(shape, algorithm)
    roles = {"weight": "values", "weight_scale": "scales", "weight_scale_2": "factor", "input_scale": "inputs"}
    built, parts = format(algorithm), {roles[name]: each for name, each in tensors.items()}
    assert built.shape(infos(parts)) == shape
    codes = built.codes(parts)
    assert codes.layout == built.layout(infos(parts))
    assert torch.equal(codes.values(), weight)


class TestFp8(QuantizationFormatChecks):
    quantization_format = "modelopt"
    config: ClassVar[Mapping[str, Any]] = settings("FP8_PER_CHANNEL_PER_TOKEN")
    names: ClassVar[Mapping[str, str]] = {"values": "{}", "scales": "{}_scale"}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        scales = weight.abs().amax(1) / 448
        return {"values": (weight / scales[:, None]).to(torch.float8_e4m3fn), "scales": scales}


def rounded(weight: Tensor, group: int, most: float) -> tuple[Tensor, Tensor]:
    """4-bit floats, two in a byte, and the scale of each group."""
    groups = weight.view(len(weight), -1, group)
    scales = (groups.abs().amax(-1) / 6 / most).to(torch.float8_e4m3fn)
    codes = ((groups / scales.float()[..., None] / most)[..., None] - E2M1).abs().argmin(-1).flatten(1).to(torch.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4, scales


class TestNvfp4(QuantizationFormatChecks):
    quantization_format = "modelopt"
    config: ClassVar[Mapping[str, Any]] = settings()
    names: ClassVar[Mapping[str, str]] = {"values": "{}", "scales": "{}_scale", "factor": "{}_scale_2"}
    tolerance = 0.35

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        values, scales = rounded(weight, 16, 0.01)
        return {"values": values, "scales": scales, "factor": torch.tensor([0.01])}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Qwen3MoeForCausalLM"])
@pytest.mark.parametrize("algorithm", ["NVFP4", *FLOATS])
@pytest.mark.parametrize("beside", [False, True], ids=["config.json", "hf_quant_config.json"])
def test_families_are_served(
    algorithm: str,
    beside: bool,
    model_class: str,
    compiled: bool,
    made: Any,
    serve: Any,
    same: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        if "embed" in name or "head" in name or name.endswith("gate.weight") or "layers.0.self_attn.k_" in name:
            return None
        shape: Any = tuple(weight.shape)
        tensors, meant = nvfp4(shape) if algorithm == "NVFP4" else fp8(shape, algorithm)
        return {**tensors, **({"k_scale": torch.ones(1)} if "k_proj" in name else {})}, meant

    config = {"moe_intermediate_size": 64, "norm_topk_prob": True} if "Moe" in model_class else {}
    reference = made(tmp_path, model_class, pack, config, {} if beside else settings(algorithm))
    if beside:
        said = {"quant_algo": algorithm, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
        (tmp_path / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": said}))
    encoding = "float4_e2m1fnx2" if algorithm == "NVFP4" else "float8_e4m3fn"
    with caplog.at_level("INFO"):
        same(serve(tmp_path, use_subgraphs=compiled, quantization_encoding=encoding), reference)
    assert caplog.text.count("--kv-cache-format float8_e4m3fn stores them so") == 1
    assert caplog.text.count("inputs of projections are not rounded") == (algorithm == "NVFP4")


WRONG: Mapping[str, tuple[str, Any, str]] = {
    "short codes": ("weight", lambda each: each[1:], "do not make up a weight in NVFP4"),
    "short scales": ("weight_scale", lambda each: each[1:], "do not make up a weight in NVFP4"),
    "scales of a type": ("weight_scale", lambda each: each.float(), "its scales is of type F32, not F8_E4M3"),
    "scales that are none": (
        "weight_scale",
        lambda each: torch.full(each.shape, 127, dtype=torch.uint8).view(each.dtype),
        "are no numbers",
    ),
    "no scales": ("weight_scale", None, "scales are missing"),
    "no factor": ("weight_scale_2", None, "of type U8 whose factor is missing"),
    "many factors": ("weight_scale_2", lambda each: each.repeat(3), "whose factor is one number"),
    "a factor that is none": ("weight_scale_2", lambda each: each * float("nan"), "are no numbers"),
    "smoothed": ("pre_quant_scale", torch.ones(256), "pre_quant_scale, which is not done"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_named(case: str, made: Any, serve: Any, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        return nvfp4(tuple(weight.shape)) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    made(tmp_path, "LlamaForCausalLM", pack, {}, settings())
    role, change, message = WRONG[case]
    tensors = load_file(tmp_path / "model.safetensors")
    whole = tensors.pop(f"{NAME}.{role}", None)
    if change is not None:
        tensors[f"{NAME}.{role}"] = change if isinstance(change, Tensor) else change(whole).contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        serve(tmp_path, use_subgraphs=False)
    assert NAME in str(error.value)
    assert ("fetch the checkpoint again" in str(error.value)) == (case != "smoothed")


@pytest.mark.parametrize("algorithm", ["W4A8_AWQ", "NVFP4_AWQ", None, 3, "MXFP8"])
def test_settings_that_are_not_read_are_named(algorithm: object) -> None:
    with pytest.raises(ModelError, match=r"'quant_algo' is .*; what is read of Model Optimizer is FP8, "):
        format(algorithm)


@pytest.mark.compiler
def test_memory_is_counted_as_it_is_held(held_by_plan: Any) -> None:
    """Scales of a wider type than in the file, too."""
    assert held_by_plan(format("NVFP4"), *nvfp4((1024, 1024))) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("beside", [False, True])
def test_errors_name_the_file_that_says_it(beside: bool, made: Any, serve: Any, tmp_path: Path) -> None:
    made(tmp_path, "LlamaForCausalLM", lambda name, weight: None, {}, {} if beside else settings("MXFP8"))
    if beside:
        (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "MXFP8"}}))
    file = "hf_quant_config.json" if beside else "config.json"
    with pytest.raises(ModelError, match=rf"(?<!\w){file}: 'quant_algo' is 'MXFP8'"):
        serve(tmp_path, use_subgraphs=False)
