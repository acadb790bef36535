"""Checkpoints of bitsandbytes compute with what its own functions unpack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.bitsandbytes import Bitsandbytes
from maxserve.testing.quantization import QuantizationFormatChecks, infos

NAME = "model.layers.1.mlp.up_proj"
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


def state(shape: tuple[int, ...], **changes: Any) -> Tensor:
    said = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": list(shape), **changes}
    return torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)


def packed(shape: tuple[int, int], kind: str, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    random = np.random.default_rng(seed + sum(shape))
    if kind == "int8":
        weight, scb = random.integers(-127, 128, shape), random.random(shape[0]).astype(np.float32) * 0.4
        scales = torch.from_numpy(scb) * torch.tensor(1 / 127)
        meant = torch.from_numpy(weight.astype(np.float32)) * scales[:, None]
        tensors = {"weight": torch.from_numpy(weight.astype(np.int8)), "SCB": torch.from_numpy(scb)}
        return tensors | {"weight_format": torch.tensor(0, dtype=torch.uint8)}, meant
    count = shape[0] * shape[1]
    codes, blocks = random.integers(0, 16, count, dtype=np.uint8), -(-count // 64)
    pairs = np.append(codes, np.zeros(count % 2, dtype=np.uint8)).reshape(-1, 2)
    tensors = {"weight": torch.from_numpy(pairs[:, :1] << 4 | pairs[:, 1:]), "weight.quant_map": torch.tensor(NF4)}
    if kind == "nested":
        stored = torch.from_numpy(random.integers(0, 256, blocks, dtype=np.uint8))
        table = torch.linspace(-1, 1, 256)
        nested = torch.from_numpy(random.random(-(-blocks // 256)).astype(np.float32) * 0.1)
        absmax = table[stored.int()] * nested.repeat_interleave(256)[:blocks] + 0.2
        tensors |= {"weight.absmax": stored, "weight.nested_absmax": nested, "weight.nested_quant_map": table}
        said = state(shape, nested_blocksize=256, nested_offset=0.2, nested_dtype="float32")
    else:
        absmax = torch.from_numpy(random.random(blocks).astype(np.float32) * 0.4)
        tensors["weight.absmax"], said = absmax, state(shape)
    tensors["weight.quant_state.bitsandbytes__nf4"] = said
    each = absmax.repeat_interleave(64)[:count] * torch.tensor(NF4)[torch.from_numpy(codes).int()]
    return tensors, each.view(shape)


def by_role(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        "quant_state" if "quant_state" in end else end.removeprefix("weight."): each for end, each in tensors.items()
    }


def described(tensors: Mapping[str, Tensor]) -> Any:
    from dataclasses import replace

    made = infos(by_role(tensors))
    return {role: replace(info, content=by_role(tensors)[role]) for role, info in made.items()}


def settings(kind: str = "nf4") -> dict[str, Any]:
    if kind == "int8":
        return {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def format(kind: str = "nf4") -> Bitsandbytes:
    return Bitsandbytes(QuantizationContext(model_config={"quantization_config": settings(kind)}))


@pytest.mark.parametrize("kind", ["nf4", "nested", "int8"])
@pytest.mark.parametrize("shape", [(64, 256), (32, 96), (33, 80), (5, 7)])
def test_values_are_the_reference(kind: str, shape: tuple[int, int]) -> None:
    tensors, weight = packed(shape, kind)
    built = format(kind)
    assert built.shape(described(tensors)) == shape
    codes = built.codes(by_role(tensors))
    assert codes.layout == built.layout(described(tensors))
    assert torch.equal(codes.values(), weight)


class TestNf4(QuantizationFormatChecks):
    quantization_format = "bitsandbytes"
    config: ClassVar[Mapping[str, Any]] = settings()
    names: ClassVar[Mapping[str, str]] = {
        "weight": "{}",
        "absmax": "{}.absmax",
        "quant_map": "{}.quant_map",
        "quant_state": "{}.quant_state.bitsandbytes__nf4",
    }
    tolerance = 0.2

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        table, flat = torch.tensor(NF4), weight.reshape(-1, 64)
        absmax = flat.abs().amax(1)
        codes = ((flat / absmax[:, None])[..., None] - table).abs().argmin(-1).view(-1, 2).to(torch.uint8)
        packed = codes[:, :1] << 4 | codes[:, 1:]
        return {"weight": packed, "absmax": absmax, "quant_map": table, "quant_state": state(tuple(weight.shape))}


class TestInt8(QuantizationFormatChecks):
    quantization_format = "bitsandbytes"
    config: ClassVar[Mapping[str, Any]] = settings("int8")
    names: ClassVar[Mapping[str, str]] = {"weight": "{}", "SCB": "{module}.SCB"}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        scb = weight.abs().amax(1)
        return {"weight": (weight / scb[:, None] * 127).round().to(torch.int8), "SCB": scb}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
@pytest.mark.parametrize("kind", ["nf4", "nested", "int8"])
def test_families_are_served(
    kind: str, model_class: str, compiled: bool, made: Any, serve: Any, same: Any, tmp_path: Path
) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        return packed(tuple(weight.shape), kind) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    reference = made(tmp_path, model_class, pack, {}, settings(kind))
    encoding = "int8" if kind == "int8" else "nf4"
    same(serve(tmp_path, use_subgraphs=compiled, quantization_encoding=encoding), reference)


STATE = "weight.quant_state.bitsandbytes__nf4"
WRONG: Mapping[str, tuple[str, Any, str]] = {
    "short codes": ("weight", lambda each: each[1:], "do not make up a weight"),
    "codes of another type": ("weight", lambda each: each.to(torch.int64), "its weight is of type I64, not BF16"),
    "short magnitudes": ("weight.absmax", lambda each: each[1:], "do not make up a weight"),
    "no magnitudes": ("weight.absmax", None, "absmax are missing"),
    "magnitudes that are codes": ("weight.absmax", lambda each: each.to(torch.uint8), "nested_absmax and nested_quant"),
    "a short table": ("weight.quant_map", lambda each: each[:8], "do not make up a weight"),
    "no table": ("weight.quant_map", None, "quant_map are missing"),
    "no shape": ("weight.quant_state.bitsandbytes__nf4", None, "quant_state are missing"),
    "no JSON": ("weight.quant_state.bitsandbytes__nf4", lambda each: each[1:], "quant_state is not one of"),
    "an empty shape": ("weight.quant_state.bitsandbytes__nf4", lambda each: state((0, 4)), "the shape \\[0, 4\\]"),
    "half a shape": ("weight.quant_state.bitsandbytes__nf4", lambda each: state((4,)), "is not one of"),
    "a long text": ("weight.quant_state.bitsandbytes__nf4", lambda each: each.repeat(99), "too long"),
    "a huge shape": ("weight.quant_state.bitsandbytes__nf4", lambda each: state((1 << 40, 9)), "do not make up"),
    "another shape": ("weight.quant_state.bitsandbytes__nf4", lambda each: state((128, 256)), "shape"),
    "blocks of none": ("weight.quant_state.bitsandbytes__nf4", lambda e: state((256, 128), blocksize=0), "blocks of 0"),
    "blocks of a float": (STATE, lambda e: state((256, 128), blocksize=2048e10), "is no whole number"),
    "blocks beyond all": (STATE, lambda e: state((256, 128), blocksize=1 << 60), "power of two up to 4096"),
    "blocks of an odd size": (STATE, lambda e: state((256, 128), blocksize=96), "power of two up to 4096"),
    "nested blocks": (STATE, lambda e: state((256, 128), nested_blocksize=10**15), "power of two up to 4096"),
    "an offset of none": (STATE, lambda e: state((256, 128), nested_offset=float("nan")), "the offset nan"),
    "deep JSON": (STATE, lambda e: torch.full((4000,), ord("["), dtype=torch.uint8), "quant_state is not one of"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_named(case: str, made: Any, refused: Any, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        return packed(tuple(weight.shape), "nf4") if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    made(tmp_path, "LlamaForCausalLM", pack, {}, settings())
    end, change, message = WRONG[case]
    assert NAME in refused(tmp_path, f"{NAME}.{end}", change, message)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32, torch.int8])
def test_codes_are_bytes_of_any_type(stored: torch.dtype, made: Any, serve: Any, same: Any, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        if not name.endswith("_proj.weight"):
            return None
        tensors, meant = packed(tuple(weight.shape), "nf4")  # type: ignore[arg-type]
        return tensors | {"weight": tensors["weight"].view(-1).view(stored)[:, None]}, meant

    reference = made(tmp_path, "LlamaForCausalLM", pack, {}, settings())
    same(serve(tmp_path, use_subgraphs=False, quantization_encoding="nf4"), reference)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_whole_numbers_in_the_order_of_a_gpu_are_refused(order: int) -> None:
    tensors, _ = packed((64, 256), "int8")
    tensors["weight_format"] = torch.tensor(order, dtype=torch.uint8)
    assert "weight_format" in format("int8").contents
    with pytest.raises(ModelError, match=r"save it again with bitsandbytes >= 0\.45"):
        format("int8").shape(described(tensors))
