"""Scales for keys and values are found under all their names, and divide what is stored in 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.loading.weight_files import open_weights
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.interfaces.cache import CacheLayer
from maxserve.plugins.quantization.cache_factors import cache_factors

LAYERS = (CacheLayer(kv_heads=2, head_dim=8),) * 2
ONE, HALF = torch.tensor(1.0), torch.tensor([0.5])


def found(folder: Path, tensors: Mapping[str, Tensor]) -> dict[int, tuple[list[float], list[float]]]:
    file = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file)
    opened = open_weights(PluginHost.discover(PluginOptions(autoload=False), strict=True), [str(file)], {})
    return {i: (each.keys.tolist(), each.values.tolist()) for i, each in cache_factors(opened, LAYERS).items()}


@pytest.mark.parametrize(
    ("keys", "values"),
    [
        ("model.layers.1.self_attn.k_scale", "model.layers.1.self_attn.v_scale"),
        ("model.layers.1.self_attn.k_proj.k_scale", "model.layers.1.self_attn.v_proj.v_scale"),
        ("model.layers.1.self_attn.k_proj.output_scale", "model.layers.1.self_attn.v_proj.output_scale"),
        (
            "language_model.layers.1.self_attn.attn.k_scale",
            "language_model.layers.1.self_attn.attn.v_scale",
        ),
        ("layers.1.attention.k_scale", "layers.1.attention.v_scale"),
    ],
)
def test_names(keys: str, values: str, tmp_path: Path) -> None:
    other = {"model.layers.0.self_attn.q_proj.weight_scale": ONE, "model.layers.0.self_attn.q_scale": ONE}
    assert found(tmp_path, {keys: torch.tensor([0.5]), values: torch.tensor([2.0, 3.0]), **other}) == {
        1: ([0.5, 0.5], [2.0, 3.0])
    }


def test_one_scale_may_be_for_both(tmp_path: Path) -> None:
    assert found(tmp_path, {"model.layers.0.self_attn.kv_scale": HALF}) == {0: ([0.5, 0.5], [0.5, 0.5])}


def test_what_is_missing_or_no_scale_is_1(tmp_path: Path) -> None:
    tensors = {
        "model.layers.0.self_attn.k_scale": torch.tensor([-1.0, 0.0]).bfloat16(),
        "model.layers.1.self_attn.v_scale": torch.tensor([[[0.5]], [[torch.nan]]]),
        "model.layers.2.self_attn.k_scale": HALF,  # a layer that drafts
    }
    assert found(tmp_path, tensors) == {0: ([1.0, 1.0], [1.0, 1.0]), 1: ([1.0, 1.0], [0.5, 1.0])}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.layers.0.self_attn.k_scale": torch.ones(16)}, "k_scale has 16 numbers, and layer 0 2 key heads"),
        (
            {"model.layers.0.self_attn.k_scale": ONE, "vision.layers.0.self_attn.k_scale": HALF},
            "are different scales for the keys of layer 0",
        ),
        (
            {"model.layers.0.self_attn.kv_scale": ONE, "model.layers.0.self_attn.v_scale": HALF},
            "are different scales for the values of layer 0",
        ),
    ],
)
def test_scales_that_do_not_fit_are_named(tensors: Mapping[str, Tensor], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{message}; fetch the checkpoint again, or store"):
        found(tmp_path, tensors)


def scaled(weight: Tensor, factor: float, name: str) -> Any:
    """A weight in 8-bit floats, and beside that of keys and values a scale for what they give."""
    scale = weight.abs().amax() / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    beside = {"k_scale": torch.tensor(factor)} if "k_proj" in name else {}
    beside |= {"v_scale": torch.tensor([factor])} if "v_proj" in name else {}
    return {"weight": codes, "weight_scale": scale.reshape(1), **beside}, codes.float() * scale


@pytest.mark.parametrize("compiled", [pytest.param(True, marks=pytest.mark.compiler), False], ids=["native", "torch"])
def test_scales_keep_small_and_large_keys_apart(
    compiled: bool, made: Any, serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Keys and values of thousandths are nearly lost in 8-bit floats, and are not where scales of that size divide."""

    def pack(factor: float) -> Any:
        def one(name: str, weight: Tensor) -> Any:
            small = 1e-3 if name.endswith(("k_proj.weight", "v_proj.weight")) else 1.0
            return None if "embed" in name or "head" in name else scaled(weight * small, factor, name)

        return one

    settings = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    errors = {}
    prompt = list(range(3, 40))
    for factor in (1.0, 1e-3):
        folder = tmp_path / str(factor)
        folder.mkdir()
        made(folder, "LlamaForCausalLM", pack(factor), {}, settings)
        caplog.clear()
        with caplog.at_level("INFO"):
            texts = [
                serve(folder, use_subgraphs=compiled, kv_cache_format=format).answers([prompt], 12)[0]
                for format in ("float32", "float8_e4m3fn")
            ]
        assert caplog.text.count("has scales for keys and values of 3 of 3 layers") == 1
        exact, coarse = texts
        first = min(len(exact.tokens), len(coarse.tokens))
        pairs = list(zip(exact.logprobs[:first], coarse.logprobs[:first], strict=True))
        errors[factor] = max(abs(a - b) for a, b in pairs[:4])
    assert errors[1e-3] < 0.02
    assert errors[1e-3] < errors[1.0] / 2
