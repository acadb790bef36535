"""Several parameters that lie one after another in one tensor of the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from maxserve.core.interfaces.architecture import TensorChange, WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.loading.linear import Linear
from maxserve.core.loading.progress import NullProgress
from maxserve.core.loading.quantization import quantization_of
from maxserve.core.loading.storage import LinearStorage
from maxserve.core.registry.protocol import Host
from maxserve.plugins.safetensors.files import SafetensorsFile
from maxserve.plugins.weights.weights import load_weights
from maxserve.testing.quantization import NibbleLinear, NibbleMethod, dequantize, nibble_plugin, quantize

SPLIT = WeightMap(split={"qkv": ("q_proj", "k_proj", "v_proj")})
CONTEXT = LinearContext(compute=torch.float32, device=torch.device("cpu"))
ROWS = {"q": 6, "k": 2, "v": 3}


class Plain:
    """A linear method that leaves weights to the layers."""

    def storage_dtype(self, checkpoint: torch.dtype) -> torch.dtype:
        return torch.float32

    def create(self, outputs: int, inputs: int, dtype: torch.dtype) -> None:
        return None


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 6)
        self.k_proj = nn.Linear(4, 2)
        self.v_proj = nn.Linear(4, 3)
        self.out = nn.Linear(4, 4, bias=False)


def loaded(
    folder: Path,
    tensors: dict[str, torch.Tensor],
    dtype: torch.dtype = torch.float32,
    changes: tuple[TensorChange, ...] = (),
) -> nn.Module:
    with torch.device("meta"):
        model = nn.ModuleDict({"attn": Attention()})
    save_file(tensors, folder / "model.safetensors")
    files = [SafetensorsFile(str(folder / "model.safetensors"))]
    weight_map = replace(SPLIT, changes=changes)
    load_weights(model, files, weight_map, dtype=dtype, device="cpu", progress=NullProgress())
    return model


def tensors() -> dict[str, torch.Tensor]:
    return {
        "attn.qkv.weight": torch.randn(11, 4),
        "attn.qkv.bias": torch.randn(11),
        "attn.out.weight": torch.randn(4, 4),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_gets_its_rows(tmp_path: Path, dtype: torch.dtype) -> None:
    given = tensors()
    model = loaded(tmp_path, given, dtype)
    for kind in ("weight", "bias"):
        parts = [getattr(getattr(model["attn"], f"{part}_proj"), kind) for part in "qkv"]
        assert torch.equal(torch.cat(parts), given[f"attn.qkv.{kind}"].to(dtype))
    parameters = list(model.parameters())
    assert all(p.dtype == dtype and not p.requires_grad and p.is_contiguous() for p in parameters)
    assert len({p.untyped_storage().data_ptr() for p in parameters}) == len(parameters), "each owns its memory"


def test_tensors_are_changed_as_they_are_read(tmp_path: Path) -> None:
    """A whole one, and a part of one, each by the name that the model has for it."""
    given = tensors()
    changes = (
        TensorChange(names=r"k_proj\.weight$", apply=lambda tensor: tensor.flip(0), absent="no keys"),
        TensorChange(names=r"out\.weight$", apply=lambda tensor: tensor + 1),
    )
    model = loaded(tmp_path, given, changes=changes)
    q, k, v = given["attn.qkv.weight"].split([6, 2, 3])
    assert torch.equal(model["attn"].k_proj.weight, k.flip(0))
    assert torch.equal(torch.cat([model["attn"].q_proj.weight, model["attn"].v_proj.weight]), torch.cat([q, v]))
    assert torch.equal(model["attn"].out.weight, given["attn.out.weight"] + 1)
    with pytest.raises(ModelError, match="no such thing"):
        loaded(tmp_path, given, changes=(TensorChange(names="nowhere", apply=torch.neg, absent="no such thing"),))


def test_they_may_come_apart_too(tmp_path: Path) -> None:
    given = tensors()
    q, k, v = given.pop("attn.qkv.weight").split([6, 2, 3])
    given |= {"attn.q_proj.weight": q.clone(), "attn.k_proj.weight": k.clone(), "attn.v_proj.weight": v.clone()}
    assert torch.equal(loaded(tmp_path, given)["attn"].v_proj.weight, v)


def test_a_tensor_of_another_size_is_named_with_what_it_should_hold(tmp_path: Path) -> None:
    given = tensors() | {"attn.qkv.weight": torch.randn(12, 4)}
    with pytest.raises(
        ModelError,
        match=r"attn.qkv.weight \[12, 4\] in .*model.safetensors is not made up of attn.q_proj.weight \[6, 4\]",
    ):
        loaded(tmp_path, given)


def test_a_tensor_that_is_missing_is_missed_under_our_names(tmp_path: Path) -> None:
    given = tensors()
    del given["attn.qkv.bias"]
    with pytest.raises(ModelError, match=r"attn.q_proj.bias"):
        loaded(tmp_path, given)


def test_a_part_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    given = tensors() | {"attn.k_proj.weight": torch.randn(2, 4)}
    with pytest.raises(ModelError, match=r"attn.k_proj.weight"):
        loaded(tmp_path, given)


@pytest.mark.parametrize("codes", [False, True])
def test_a_packed_one_is_split_by_rows(codes: bool, plugin_host: Callable[..., Host], tmp_path: Path) -> None:
    """Unpacked, or as codes where the linear method takes such."""
    with torch.device("meta"):
        projections = {f"{part}_proj": Linear(32, rows) for part, rows in ROWS.items()}
        model = nn.ModuleDict({"attn": nn.ModuleDict(projections)})
    weight = torch.randn(11, 32)
    packed = quantize(weight)
    save_file({f"attn.qkv.weight.{role}": each for role, each in packed.items()}, tmp_path / "model.safetensors")
    config = {"quantization_config": {"quant_method": "nibbles"}}
    load_weights(
        model,
        [SafetensorsFile(str(tmp_path / "model.safetensors"))],
        SPLIT,
        dtype=torch.float32,
        device="cpu",
        progress=NullProgress(),
        storage=LinearStorage(method=NibbleMethod(CONTEXT) if codes else Plain()),
        quantization=quantization_of(plugin_host(nibble_plugin()), config, "it"),
    )
    x, meant = torch.randn(5, 32), dequantize(packed)
    for part, rows in zip(ROWS, meant.split(list(ROWS.values())), strict=True):
        projection = projections[f"{part}_proj"]
        assert isinstance(projection.packed, NibbleLinear) is codes
        torch.testing.assert_close(projection(x), x @ rows.t())
