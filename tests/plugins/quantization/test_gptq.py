"""GPTQ checkpoints compute with scales * (code - zero), whatever the order of inputs, bits and groups are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.quantization import QuantizationContext
from maxserve.plugins.quantization.gptq import Gptq
from maxserve.testing.quantization import QuantizationFormatChecks, infos

Bytes = npt.NDArray[np.uint8]


def words(numbers: Bytes, bits: int) -> npt.NDArray[np.int32]:
    """The numbers along the first axis in words of 32 bits, the first ones in the lowest bits."""
    each = (numbers[:, None, :] >> np.arange(bits, dtype=np.uint8)[None, :, None]) & 1
    bytes = np.packbits(each.reshape(-1, numbers.shape[1]).T, axis=1, bitorder="little")
    return np.ascontiguousarray(bytes).view(np.int32).T


def packed(
    shape: tuple[int, int], bits: int, group: int, *, less: int = 1, order: str = "", seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a random weight [outputs, inputs], and the weight, which is about that of a tiny model."""
    (outputs, inputs), random = shape, np.random.default_rng(seed + sum(shape))
    group = inputs if group < 0 else group
    groups = -(-inputs // group)
    codes = random.integers(0, 1 << bits, (inputs, outputs), dtype=np.uint8)
    zeros = random.integers(1, 1 << bits, (groups, outputs), dtype=np.uint8)
    scales = (random.random((groups, outputs)) * 0.4 / (1 << bits)).astype(np.float16)
    group_of = (np.arange(inputs) // group).astype(np.int32)
    if order:
        group_of = random.permutation(group_of)
    weight = scales[group_of].astype(np.float32) * (codes.astype(np.float32) - zeros[group_of].astype(np.float32))
    tensors = {
        "qweight": words(codes, bits),
        "qzeros": words((zeros - less).T.copy(), bits).T.copy(),
        "scales": scales,
        "g_idx": group_of,
    }
    return {name: torch.from_numpy(each.copy()) for name, each in tensors.items()}, torch.from_numpy(weight.T.copy())


def settings(**changes: Any) -> dict[str, Any]:
    return {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": False, **changes}


def format(**changes: Any) -> Gptq:
    return Gptq(QuantizationContext(model_config={"quantization_config": settings(**changes)}))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [-1, 32, 64, 128])
@pytest.mark.parametrize("order", ["", "by activation"])
@pytest.mark.parametrize("less", [0, 1], ids=["v2", "v1"])
def test_values_are_the_reference(bits: int, group: int, order: str, less: int) -> None:
    built = format(bits=bits, group_size=group, checkpoint_format="gptq" if less else "gptq_v2")
    tensors, weight = packed((64, 256), bits, group, less=less, order=order)
    assert built.shape(infos(tensors)) == (64, 256)
    codes = built.codes(tensors)
    assert codes.layout == built.layout(infos(tensors))
    assert torch.equal(codes.values(), weight)
    assert (codes.order is not None) == bool(order and group > 0)


def test_a_zero_of_none_is_stored_as_the_largest() -> None:
    tensors, _ = packed((32, 64), 4, 32)
    tensors["qzeros"][:] = -1
    codes = format().codes(tensors)
    assert codes.zeros is None
    assert codes.table.tolist() == list(range(16))


def test_a_symmetric_weight_has_one_zero() -> None:
    tensors, _ = packed((32, 64), 4, 32)
    tensors["qzeros"][:] = 0x77777777
    weight = format().codes(packed((32, 64), 4, 32)[0])
    expected = weight.scales.float().repeat_interleave(32, 1) * (weight.codes.float() - 8)
    codes = format().codes(tensors)
    assert codes.zeros is None, "the table says it"
    assert torch.equal(codes.values(), expected)


def test_tensors_without_an_order() -> None:
    tensors, weight = packed((32, 64), 4, 32)
    del tensors["g_idx"]
    assert torch.equal(format().codes(tensors).values(), weight)


class TestGptq(QuantizationFormatChecks):
    quantization_format = "gptq"
    config: ClassVar[Mapping[str, Any]] = settings()
    names: ClassVar[Mapping[str, str]] = {
        role: f"{{module}}.{role}" for role in ("qweight", "qzeros", "scales", "g_idx")
    }

    optional = frozenset({"g_idx"})

    def quantize(self, weight: Tensor) -> Mapping[str, Tensor]:
        groups = weight.numpy().reshape(len(weight), -1, 32)
        scales = np.abs(groups).max(2) / 7
        codes = np.rint(groups / scales[..., None]) + 8
        flat = codes.reshape(weight.shape).T.astype(np.uint8).copy()
        zeros = words(np.full(scales.shape, 7, dtype=np.uint8), 4).T.copy()
        made = {"qweight": words(flat, 4), "qzeros": zeros, "scales": scales.T.astype(np.float16)}
        tensors = {name: torch.from_numpy(each.copy()) for name, each in made.items()}
        return tensors | {"g_idx": (torch.arange(weight.shape[1]) // 32).int()}


FAMILIES = {
    "llama": ("LlamaForCausalLM", {}),
    "tied": ("LlamaForCausalLM", {"tie_word_embeddings": True}),
    "with biases": ("Qwen2ForCausalLM", {}),
    "fused already": ("Phi3ForCausalLM", {"sliding_window": None}),
    "experts": ("Qwen3MoeForCausalLM", {"moe_intermediate_size": 64, "norm_topk_prob": True}),
    "mixtral": ("MixtralForCausalLM", {}),
    "gemma": ("Gemma2ForCausalLM", {"query_pre_attn_scalar": 16}),
}


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["codes", "unpacked"])
@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_served(
    family: str,
    compiled: bool,
    made: Any,
    serve: Any,
    same: Any,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model_class, config = FAMILIES[family]

    def pack(name: str, weight: Tensor) -> Any:
        shape: Any = tuple(weight.shape)
        return packed(shape, 4, 32) if name.endswith("_proj.weight") or ".w" in name else None

    reference = made(tmp_path, model_class, pack, config, settings())
    with caplog.at_level("INFO"):
        same(serve(tmp_path, use_subgraphs=compiled), reference)
    assert ("are unpacked to F32" in caplog.text) is not compiled


@pytest.mark.compiler
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_orders_of_activations_heads_and_modules_that_differ(
    bits: int, made: Any, serve: Any, same: Any, shared: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each part of a fused projection has an order of its own; modules have bits and groups of their own, or none."""

    def pack(name: str, weight: Tensor) -> Any:
        shape: Any = tuple(weight.shape)
        if "layers.0.mlp" in name or "embed" in name or "o_proj" in name:
            return None
        if name == "lm_head.weight":
            return None if shape[0] % 32 else packed(shape, 8, -1)
        tensors, meant = packed(shape, bits, 64, order="by activation", seed=len(name))
        outputs = torch.zeros(shape[0], dtype=torch.float16)
        return {**tensors, "bias": outputs}, meant  # as AutoGPTQ writes it

    quantization = settings(bits=bits, group_size=64, desc_act=True, lm_head=True, dynamic={"lm_head": {"bits": 8}})
    reference = made(tmp_path, "LlamaForCausalLM", pack, {"vocab_size": 96}, quantization)
    same(serve(tmp_path), reference)
    with caplog.at_level("INFO"):
        shared(tmp_path)
    assert "are unpacked to F32" in caplog.text, "inputs in an order of their own have no neighbours"


@pytest.mark.compiler
@pytest.mark.parametrize("family", ["fused already", "experts", "mixtral"])
@pytest.mark.parametrize("group", [32, 96])
def test_two_ranks_share_it(family: str, group: int, made: Any, shared: Any, tmp_path: Path) -> None:
    """Also where shares of inputs begin within a group."""
    model_class, config = FAMILIES[family]
    sizes = {"intermediate_size": 2 * 96, "moe_intermediate_size": 3 * 64}

    def pack(name: str, weight: Tensor) -> Any:
        shape: Any = tuple(weight.shape)
        return packed(shape, 4, group) if name.endswith("_proj.weight") or ".w" in name else None

    made(tmp_path, model_class, pack, {**config, **sizes}, settings(group_size=group))
    shared(tmp_path)


def test_settings_of_their_own_file_are_read(made: Any, serve: Any, same: Any, tmp_path: Path) -> None:
    def pack(name: str, weight: Tensor) -> Any:
        return packed(tuple(weight.shape), 4, 128) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    reference = made(tmp_path, "LlamaForCausalLM", pack, {}, {})
    assert not json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    own = {key: value for key, value in settings(group_size=128).items() if key != "quant_method"}
    (tmp_path / "quantize_config.json").write_text(json.dumps(own))
    same(serve(tmp_path, use_subgraphs=False), reference)


@pytest.fixture
def tiny(made: Any, tmp_path: Path) -> Path:
    def pack(name: str, weight: Tensor) -> Any:
        return packed(tuple(weight.shape), 4, 32) if name.endswith("_proj.weight") else None  # type: ignore[arg-type]

    made(tmp_path, "LlamaForCausalLM", pack, {}, settings())
    return tmp_path


NAME = "model.layers.1.mlp.down_proj"


def cut(role: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{NAME}.{role}"] = tensors[f"{NAME}.{role}"][1:].clone()

    return change


def lost(role: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        del tensors[f"{NAME}.{role}"]

    return change


def set_to(role: str, make: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({f"{NAME}.{role}": make(tensors[f"{NAME}.{role}"]).contiguous()})


WRONG: Mapping[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "codes are cut": (cut("qweight"), "do not make up a GPTQ weight of 4 bits"),
    "scales are cut": (cut("scales"), "do not make up"),
    "zeros are cut": (cut("qzeros"), "do not make up"),
    "groups of inputs are cut": (cut("g_idx"), "do not make up"),
    "codes are missing": (lost("qweight"), "qweight are missing"),
    "zeros are missing": (lost("qzeros"), "qzeros are missing"),
    "scales are missing": (lost("scales"), "scales are missing"),
    "groups are unequal": (set_to("g_idx", lambda each: torch.zeros_like(each)), "g_idx does not put 32 inputs"),
    "groups are below none": (set_to("g_idx", lambda each: each - 5), "g_idx does not put"),
    "codes are a stack": (set_to("qweight", lambda each: each[None]), "do not make up"),
    "codes are of no inputs": (set_to("qweight", lambda each: each[:0]), "do not make up"),
    "a bias that says something": (
        lambda tensors: tensors.update({f"{NAME}.bias": torch.ones(128)}),
        "in the checkpoint but not in the model: model.layers.1.mlp.down_proj.bias",
    ),
    "another model's": (set_to("qweight", lambda each: each.repeat(2, 1)), NAME),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_that_do_not_fit_are_named(case: str, tiny: Path, serve: Any) -> None:
    change, message = WRONG[case]
    tensors = load_file(tiny / "model.safetensors")
    change(tensors)
    save_file(tensors, tiny / "model.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        serve(tiny, use_subgraphs=False)
    assert NAME in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("bits", 5, "'bits' of the quantization is 5; what is read is 2, 3, 4, 8"),
        ("bits", None, "'bits' of the quantization is None"),
        ("bits", "4", "'bits' of the quantization is '4'"),
        ("bits", 8, "of 8 bits"),
        ("group_size", 0, "'group_size' of the quantization is 0"),
        ("group_size", [32], "'group_size'"),
        ("checkpoint_format", "marlin", "'checkpoint_format' is 'marlin'"),
        ("checkpoint_format", {"a": 1}, "'checkpoint_format' is"),
    ],
)
def test_settings_that_are_not_read_are_named(key: str, value: object, message: str, tiny: Path, serve: Any) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["quantization_config"][key] = value
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=message):
        serve(tiny, use_subgraphs=False)


def test_the_encoding_is_what_the_option_may_say(tiny: Path, serve: Any) -> None:
    serve(tiny, use_subgraphs=False, quantization_encoding="gptq")
    with pytest.raises(ModelError, match=r"stored as gptq, not as the q4_0 of --quantization-encoding"):
        serve(tiny, use_subgraphs=False, quantization_encoding="q4_0")


@pytest.mark.compiler
@pytest.mark.parametrize(("bits", "order"), [(4, ""), (4, "by activation"), (8, "")])
def test_memory_is_counted_as_it_is_held(bits: int, order: str, held_by_plan: Any) -> None:
    tensors, weight = packed((1024, 1024), bits, 32, order=order)
    assert 0.95 < held_by_plan(format(bits=bits), tensors, weight) <= 1
