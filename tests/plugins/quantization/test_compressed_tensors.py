"""Checkpoints of compressed-tensors compute with what that package unpacks, however each module is held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.compressed_tensors import CompressedTensors
from maxserve.testing.quantization import QuantizationFormatChecks, infos

Packed = tuple[dict[str, Tensor], Tensor]
NAME = "model.layers.1.mlp.down_proj"
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
PACK, INT, FLOAT, NVFP4, MXFP4 = (
    *("pack-quantized", "int-quantized", "float-quantized"),
    *("nvfp4-pack-quantized", "mxfp4-pack-quantized"),
)


def words(numbers: Any, bits: int, *, loose: bool = False) -> Tensor:
    """The numbers of each row in words of 32 bits; `loose`: as many as are whole in each."""
    rows, count = numbers.shape
    if loose:
        per = 32 // bits
        padded = np.pad(numbers, ((0, 0), (0, -count % per))).reshape(rows, -1, per).astype(np.uint32)
        packed = np.bitwise_or.reduce(padded << np.arange(0, per * bits, bits, dtype=np.uint32), axis=2)
        return torch.from_numpy(packed.view(np.int32))
    each = (numbers[..., None].astype(np.uint8) >> np.arange(bits, dtype=np.uint8)) & 1
    flat = np.pad(each.reshape(rows, -1), ((0, 0), (0, -count * bits % 32)))
    return torch.from_numpy(np.packbits(flat, axis=1, bitorder="little").view(np.int32).copy())


def pack(
    shape: tuple[int, int],
    bits: int = 4,
    group: int = 32,
    *,
    zeros: bool = False,
    order: bool = False,
    loose: bool = False,
    seed: int = 0,
) -> Packed:
    (outputs, inputs), random = shape, np.random.default_rng(seed + sum(shape))
    group = inputs if group < 0 else group
    groups, half = -(-inputs // group), 1 << bits - 1
    codes = random.integers(0, 1 << bits, shape)
    points = random.integers(0, 1 << bits, (outputs, groups)) if zeros else np.full((outputs, groups), half)
    scales = torch.from_numpy((random.random((outputs, groups)) * 0.4 / (1 << bits)).astype(np.float32)).bfloat16()
    group_of = np.arange(inputs) // group
    group_of = random.permutation(group_of) if order else group_of
    weight = scales.float()[:, group_of] * torch.from_numpy((codes - points[:, group_of]).astype(np.float32))
    tensors = {"weight_packed": words(codes, bits, loose=loose), "weight_scale": scales}
    tensors["weight_shape"] = torch.tensor(shape)
    if zeros:
        tensors["weight_zero_point"] = words(points.T.copy(), bits, loose=loose).T.contiguous()
    if order:
        tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    return tensors, weight


def integers(shape: tuple[int, int], strategy: str = "channel", *, zeros: bool = False) -> Packed:
    random = torch.Generator().manual_seed(sum(shape))
    weight = torch.randint(-128, 128, shape, generator=random).to(torch.int8)
    groups = {"channel": (shape[0], 1), "tensor": (1,), "group": (shape[0], shape[1] // 32)}[strategy]
    scales = (torch.rand(groups, generator=random) * 0.002).bfloat16()
    tensors = {"weight": weight, "weight_scale": scales, "input_scale": torch.ones(1)}
    points = torch.randint(-9, 10, groups, generator=random).to(torch.int8)
    if zeros:
        tensors["weight_zero_point"] = points
    own = (weight.float(), scales.float(), points.float() * zeros)
    wide = [each.repeat_interleave(32, 1) if strategy == "group" and each is not own[0] else each for each in own]
    return tensors, wide[1] * (wide[0] - wide[2])


def floats(shape: tuple[int, int], strategy: str = "channel") -> Packed:
    random = torch.Generator().manual_seed(sum(shape))
    weight = (torch.randn(shape, generator=random) * 20).to(torch.float8_e4m3fn)
    groups = {"channel": (shape[0], 1), "tensor": (1,), "block": (-(-shape[0] // 32), -(-shape[1] // 32))}[strategy]
    scales = torch.rand(groups, generator=random) * 0.02
    wide = scales
    if strategy == "block":
        wide = scales.repeat_interleave(32, 0)[: shape[0]].repeat_interleave(32, 1)[:, : shape[1]]
    return {"weight": weight, "weight_scale": scales}, weight.float() * wide


def nibbles(shape: tuple[int, int]) -> tuple[Tensor, Tensor]:
    codes = torch.randint(0, 16, shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4, E2M1[codes.int()]


def nvfp4(shape: tuple[int, int]) -> Packed:
    packed, values = nibbles(shape)
    scales = (torch.rand(shape[0], shape[1] // 16, generator=torch.Generator().manual_seed(1)) * 400).to(
        torch.float8_e4m3fn
    )
    factor = torch.tensor([3777.7])
    tensors = {"weight_packed": packed, "weight_scale": scales, "weight_global_scale": factor}
    return tensors, values * (scales.float() / factor).repeat_interleave(16, 1)


def mxfp4(shape: tuple[int, int]) -> Packed:
    packed, values = nibbles(shape)
    exponents = torch.randint(
        120, 125, (shape[0], shape[1] // 32), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )
    tensors = {"weight_packed": packed, "weight_scale": exponents}
    return tensors, values * torch.exp2(exponents.float() - 127).repeat_interleave(32, 1)


def group(*targets: str, format: str | None = None, **weights: Any) -> dict[str, Any]:
    made = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, **weights}
    return {"targets": list(targets or ("Linear",)), "weights": made, **({"format": format} if format else {})}


def settings(format: str = PACK, *groups: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    numbered = {f"group_{i}": dict(each) for i, each in enumerate(groups or (group(),))}
    return {"quant_method": "compressed-tensors", "format": format, "config_groups": numbered, "ignore": [], **changes}


def built(config: Mapping[str, Any]) -> CompressedTensors:
    return CompressedTensors(QuantizationContext(model_config={"quantization_config": config}))


def described(tensors: Mapping[str, Tensor]) -> Any:
    return {role: replace(info, content=tensors[role]) for role, info in infos(tensors).items()}


def check(config: Mapping[str, Any], packed: Packed) -> None:
    """The format gives the weight, whose shape and layout it knows before."""
    format, (tensors, weight) = built(config), packed
    parts = {f"{role} 0": each for role, each in tensors.items()}
    assert format.shape(described(parts)) == tuple(weight.shape)
    codes = format.codes(parts)
    assert codes.layout == format.layout(described(parts))
    assert torch.equal(codes.values(), weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("size", [-1, 32, 64])
@pytest.mark.parametrize("zeros", [False, True], ids=["symmetric", "zeros"])
@pytest.mark.parametrize("loose", [False, True], ids=["dense", "loose"])
@pytest.mark.parametrize("shape", [(64, 192), (33, 96), (40, 128)])
def test_whole_numbers_in_words(bits: int, size: int, zeros: bool, loose: bool, shape: tuple[int, int]) -> None:
    strategy = "channel" if size < 0 else "group"
    config = settings(PACK, group(num_bits=bits, group_size=size, strategy=strategy, symmetric=not zeros))
    check(config, pack(shape, bits, size, zeros=zeros, loose=loose))


def test_orders_of_activations() -> None:
    check(settings(PACK, group(actorder="group")), pack((64, 256), order=True))


def test_orders_that_were_never_found() -> None:
    tensors, weight = pack((64, 256))
    tensors["weight_g_idx"] = torch.full((256,), -1, dtype=torch.int32)
    check(settings(PACK, group(actorder="weight")), (tensors, weight))


def test_zero_points_of_floats_are_zero() -> None:
    config = settings(FLOAT, group(num_bits=8, type="float", strategy="channel", group_size=None))
    tensors, weight = floats((48, 80))
    tensors["weight_zero_point"] = torch.zeros(48, 1, dtype=torch.int8)
    check(config, (tensors, weight))
    tensors["weight_zero_point"] += 1
    with pytest.raises(ModelError, match="is not zero"):
        check(config, (tensors, weight))


@pytest.mark.parametrize("reverse", [False, True])
def test_of_two_classes_the_one_that_fits(reverse: bool) -> None:
    groups = [group("Linear"), group("Embedding", num_bits=8, strategy="channel", group_size=None)]
    format = built(settings(PACK, *(groups[::-1] if reverse else groups)))
    for name, (tensors, weight) in {"up_proj": pack((64, 256)), "embed_tokens": pack((64, 256), 8, -1)}.items():
        parts = {format.part(f"model.{name}.{role}", "I32")[1]: each for role, each in tensors.items()}  # type: ignore[index]
        assert {role for role in parts if role.startswith("weight_shape")} <= format.contents
        assert format.shape(described(parts)) == (64, 256)
        assert torch.equal(format.codes(parts).values(), weight)


@pytest.mark.parametrize("groups", [{}, {"group_0": {"targets": ["Linear"], "weights": None, "input_activations": {}}}])
def test_weights_may_be_plain(
    groups: Any, made: Any, serve: Any, same: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def packed(name: str, weight: Tensor) -> Any:
        return ({"weight": weight, "k_scale": torch.ones(1)}, weight) if name.endswith("k_proj.weight") else None

    config = settings(config_groups=groups, kv_cache_scheme={"num_bits": 8})
    reference = made(tmp_path, "LlamaForCausalLM", packed, {}, config)
    with caplog.at_level("INFO"):
        same(serve(tmp_path, use_subgraphs=False, quantization_encoding="float32"), reference)
    assert "--kv-cache-format float8_e4m3fn stores them so" in caplog.text


@pytest.mark.parametrize("strategy", ["channel", "tensor", "group"])
@pytest.mark.parametrize("zeros", [False, True])
def test_whole_numbers_of_a_byte(strategy: str, zeros: bool) -> None:
    config = settings(INT, group(num_bits=8, strategy=strategy, group_size=32 if strategy == "group" else None))
    check(config, integers((64, 96), strategy, zeros=zeros))


@pytest.mark.parametrize("strategy", ["channel", "tensor", "block"])
@pytest.mark.parametrize("format", [FLOAT, "naive-quantized"])
def test_floats_of_a_byte(strategy: str, format: str) -> None:
    blocks = [32, 32] if strategy == "block" else None
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "group_size": None, "block_structure": blocks}
    check(settings(format, group(**weights)), floats((48, 80), strategy))


def test_floats_of_4_bits() -> None:
    check(settings(NVFP4, group(type="float", strategy="tensor_group", group_size=16)), nvfp4((64, 96)))
    check(settings(MXFP4, group(type="float", group_size=32)), mxfp4((64, 96)))


class TestPacked(QuantizationFormatChecks):
    quantization_format = "compressed-tensors"
    config: ClassVar[Mapping[str, Any]] = settings(INT, group(num_bits=8, strategy="channel", group_size=None))
    names: ClassVar[Mapping[str, str]] = {"weight 0": "{}", "weight_scale 0": "{}_scale"}

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        scales = weight.abs().amax(1, keepdim=True) / 127
        return {"weight 0": (weight / scales).round().to(torch.int8), "weight_scale 0": scales}


class TestWords(QuantizationFormatChecks):
    quantization_format = "compressed-tensors"
    config: ClassVar[Mapping[str, Any]] = settings(PACK, group(group_size=16))
    names: ClassVar[Mapping[str, str]] = {
        "weight_packed 0": "{}_packed",
        "weight_scale 0": "{}_scale",
        "weight_shape 0": "{}_shape",
    }

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        groups = weight.view(len(weight), -1, 16)
        scales = groups.abs().amax(-1) / 7
        codes = ((groups / scales[..., None]).round() + 8).flatten(1).numpy().astype(np.uint8)
        packed = {"weight_packed 0": words(codes, 4), "weight_scale 0": scales}
        return packed | {"weight_shape 0": torch.tensor(weight.shape)}


KINDS: Mapping[str, tuple[dict[str, Any], Any, str]] = {
    "W4A16": (settings(PACK, group()), pack, "int4"),
    "W4A16 with zeros": (settings(PACK, group(symmetric=False)), lambda shape: pack(shape, zeros=True), "int4"),
    "W8A16": (settings(PACK, group(num_bits=8, strategy="channel")), lambda shape: pack(shape, 8, -1), "int8"),
    "W8A8": (settings(INT, group(num_bits=8, strategy="channel") | {"input_activations": {}}), integers, "int8"),
    "FP8": (settings(FLOAT, group(num_bits=8, strategy="channel", type="float")), floats, "float8_e4m3fn"),
    "NVFP4": (settings(NVFP4, group(strategy="tensor_group", group_size=16)), nvfp4, "float4_e2m1fnx2"),
    "MXFP4": (settings(MXFP4, group(group_size=32)), mxfp4, "mxfp4"),
}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "MixtralForCausalLM"])
@pytest.mark.parametrize("kind", KINDS)
def test_families_are_served(
    kind: str, model_class: str, compiled: bool, made: Any, serve: Any, same: Any, tmp_path: Path
) -> None:
    config, quantize, encoding = KINDS[kind]

    def packed(name: str, weight: Tensor) -> Any:
        plain = "embed" in name or "head" in name or name.endswith("gate.weight") or "layers.0.self_attn.k_" in name
        return None if plain else quantize(tuple(weight.shape))

    reference = made(tmp_path, model_class, packed, {}, config)
    same(serve(tmp_path, use_subgraphs=compiled, quantization_encoding=encoding), reference)


def test_the_name_that_settings_had_at_first(made: Any, serve: Any, same: Any, tmp_path: Path) -> None:
    def plain_but_projections(name: str, weight: Tensor) -> Any:
        return pack(tuple(weight.shape)) if "_proj" in name else None  # type: ignore[arg-type]

    reference = made(tmp_path, "LlamaForCausalLM", plain_but_projections, {}, {})
    config = json.loads((tmp_path / "config.json").read_text()) | {"compression_config": settings(PACK, group())}
    config["compression_config"]["quant_method"] = "sparseml"
    (tmp_path / "config.json").write_text(json.dumps(config))
    same(serve(tmp_path, use_subgraphs=False), reference)


@pytest.mark.compiler
def test_modules_are_held_in_several_ways(
    made: Any, serve: Any, same: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By name, by pattern, by class; keys and values have factors of their own, which are not needed."""

    def packed(name: str, weight: Tensor) -> Any:
        shape: Any = tuple(weight.shape)
        if "embed" in name or "layers.0.mlp.up_proj" in name:
            return None
        if "v_proj" in name:
            tensors, meant = floats(shape)
            return {**tensors, "k_scale": torch.ones(1), "output_scale": torch.ones(1)}, meant
        if name == "model.layers.1.mlp.down_proj.weight":
            return nvfp4(shape)
        return pack(shape, 8, -1) if "head" in name else pack(shape, zeros=True)

    config = settings(
        "mixed-precision",
        group("re:.*v_proj$", format=FLOAT, num_bits=8, type="float", strategy="channel"),
        group("lm_head", format=PACK, num_bits=8, strategy="channel"),
        group("model.layers.1.mlp.down_proj", format=NVFP4, strategy="tensor_group", group_size=16),
        group("Linear", format=PACK, symmetric=False),
        ignore=["model.layers.0.mlp.up_proj", "re:.*o_proj"],
        kv_cache_scheme={"num_bits": 8, "type": "float"},
    )
    reference = made(tmp_path, "LlamaForCausalLM", packed, {}, config)
    with caplog.at_level("INFO"):
        same(serve(tmp_path), reference)
    assert "3 modules not quantized, and their weights are (model.layers.0.self_attn.o_proj" in caplog.text
    assert "--kv-cache-format float8_e4m3fn stores them so" in caplog.text
    assert "are unpacked" not in caplog.text, "beside a neighbour that is plain, too"
    held = "int4 (79%), float4_e2m1fnx2 (9%), float8_e4m3fn (6%) and int8 (6%)"
    assert f"projections are held in {held} and computed in float32" in caplog.text


WRONG: Mapping[str, tuple[str, str, Any, str]] = {
    "short codes": ("W4A16", "weight_packed", lambda each: each[1:], "do not make up a weight"),
    "flat codes": ("W4A16", "weight_packed", lambda each: each.flatten(), "do not make up a weight"),
    "no codes": ("W4A16", "weight_packed", None, "weight_packed are missing"),
    "short scales": ("W4A16", "weight_scale", lambda each: each[1:], "do not make up a weight"),
    "fewer groups": ("W4A16", "weight_scale", lambda each: each[:, 1:], "do not make up a weight"),
    "no scales": ("W4A16", "weight_scale", None, "weight_scale are missing"),
    "no shape": ("W4A16", "weight_shape", None, "weight_shape are missing"),
    "an empty shape": ("W4A16", "weight_shape", lambda each: each * 0, "is no shape of a weight: \\[0, 0\\]"),
    "a long shape": ("W4A16", "weight_shape", lambda each: each.repeat(9), "is no shape of a weight"),
    "another shape": ("W4A16", "weight_shape", lambda each: each + 1, "do not make up a weight"),
    "a huge shape": ("W4A16", "weight_shape", lambda each: each << 40, "do not make up a weight"),
    "short zeros": ("W4A16 with zeros", "weight_zero_point", lambda each: each[1:], "do not make up a weight"),
    "scales of fewer rows": ("W8A8", "weight_scale", lambda each: each[1:], "do not fit a weight"),
    "no scales of rows": ("FP8", "weight_scale", None, "are missing"),
    "floats that are none": (
        "FP8",
        "weight",
        lambda e: torch.full(e.shape, 127, dtype=torch.uint8).view(e.dtype),
        "no num",
    ),
    "a factor of none": ("NVFP4", "weight_global_scale", lambda each: each * 0, "are no numbers"),
    "two factors": ("NVFP4", "weight_global_scale", lambda each: each.repeat(2), "whose factor is one number"),
    "no factor": ("NVFP4", "weight_global_scale", None, "factor are missing"),
    "scales of a type": ("NVFP4", "weight_scale", lambda each: each.float(), "its scales is of type F32, not F8_E4M3"),
    "exponents of none": ("MXFP4", "weight_scale", lambda each: each | 255, "are 255, which are no numbers"),
    "exponents of fewer": ("MXFP4", "weight_scale", lambda each: each[:, 1:], "do not make up a weight in MXFP4"),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_named(case: str, made: Any, refused: Any, tmp_path: Path) -> None:
    kind, role, change, message = WRONG[case]
    config, quantize, _ = KINDS[kind]

    def packed(name: str, weight: Tensor) -> Any:
        return quantize(tuple(weight.shape)) if name.endswith("_proj.weight") else None

    made(tmp_path, "LlamaForCausalLM", packed, {}, config)
    assert NAME in refused(tmp_path, f"{NAME}.{role}", change, message)


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "sparse": (
        settings(sparsity_config={"format": "sparse-24-bitmask"}),
        r"weights are sparse \('sparse-24-bitmask'\)",
    ),
    "marlin": (settings("marlin-24"), "in the format 'marlin-24'; what is read is pack-quantized"),
    "none": (settings("mixed-precision"), "in the format 'mixed-precision'"),
    "rotated": (settings(transform_config={"a": 1}), "'transform_config' has inputs rotated"),
    "no groups": (settings(config_groups={}), "are empty"),
    "a list": (settings(config_groups=[1]), "are no groups of modules"),
    "a number": (settings(config_groups={"a": 1}), "are no groups of modules"),
    "no weights": (settings(PACK, {"targets": ["Linear"], "weights": 4}), "group_0 does not say how"),
    "no targets": (settings(PACK, group() | {"targets": None}), "'targets' of compressed-tensors are no names"),
    "no pattern": (settings(PACK, group("re:(")), r"'\(' of compressed-tensors is no pattern"),
    "no bits": (settings(PACK, group(num_bits="4")), "'num_bits' of 'config_groups' group_0 is '4'"),
    "many bits": (settings(PACK, group(num_bits=16)), "is 16; it is from 2 to 8"),
    "no size": (settings(PACK, group(group_size="a")), "'group_size' of the quantization is 'a'"),
    "no blocks": (settings(FLOAT, group(strategy="block", block_structure="a")), "are two numbers"),
    "no modules": (settings(ignore={"a": 1}), "'ignore' of compressed-tensors are no names"),
    "no pattern ignored": (settings(ignore=["re:["]), "is no pattern"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_settings_that_are_not_read_are_named(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        built(config)


def test_the_encoding_is_verified(made: Any, serve: Any, tmp_path: Path) -> None:
    def packed(name: str, weight: Tensor) -> Any:
        return pack(tuple(weight.shape)) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    made(tmp_path, "LlamaForCausalLM", packed, {}, settings())
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["format"] == PACK
    with pytest.raises(ModelError, match="stored as int4, not as the gptq of --quantization-encoding"):
        serve(tmp_path, quantization_encoding="gptq")


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
def test_files_are_opened_once_for_many_tensors(
    compiled: bool, made: Any, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many weights there are, whose tensors lie in different files here."""
    opened: list[str] = []

    def counted(path: str, **options: Any) -> Any:
        opened.append(path)
        return safe_open(path, **options)

    def opens(layers: int) -> int:
        folder = tmp_path / str(layers)
        folder.mkdir()
        plain = ("embed", "head")
        made(
            folder,
            "LlamaForCausalLM",
            lambda name, weight: None if any(each in name for each in plain) else pack(tuple(weight.shape)),
            {"num_hidden_layers": layers},
            settings(),
        )
        whole = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        for number in range(2):
            own = {name: each for i, (name, each) in enumerate(sorted(whole.items())) if i % 2 == number}
            save_file(own, folder / f"model-{number + 1:05}-of-00002.safetensors", {"format": "pt"})
        opened.clear()
        with monkeypatch.context() as patch:
            patch.setattr("safetensors.safe_open", counted)
            serve(folder, use_subgraphs=compiled)
        return len(opened)

    assert opens(2) == opens(4) <= 12


@pytest.mark.compiler
@pytest.mark.parametrize("kind", ["NVFP4", "MXFP4", "FP8"])
def test_memory_is_counted_as_it_is_held(kind: str, held_by_plan: Any) -> None:
    """Scales of a wider type than in the file, too."""
    config, quantize, _ = KINDS[kind]
    assert held_by_plan(built(config), *quantize((1024, 1024))) == pytest.approx(1, abs=0.01)
