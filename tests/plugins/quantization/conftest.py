"""Tiny models of transformers whose weights are packed, and what they compute with the weights that these stand for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from maxserve.core.interfaces.architecture import WeightMap
from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.linear import LinearContext
from maxserve.core.loading.quantization import codes_size
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.cpu.linear import PanelMethod
from maxserve.testing.architecture import ArchitectureChecks, randomised
from maxserve.testing.quantization import TYPES, infos
from maxserve.testing.ranks import assert_same_texts, served_in_ranks, texts
from maxserve.testing.served import Served, continuation
from maxserve.testing.tiny_configs import tiny_config

# The tensors of a module's weight by the ends of their names, and the weight they stand for; None: it stays as it is.
Pack: TypeAlias = Callable[[str, Tensor], "tuple[Mapping[str, Tensor], Tensor] | None"]

SIZES: Mapping[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "max_position_embeddings": 128}
PROMPT = torch.randint(2, 70, (40,), generator=torch.Generator().manual_seed(1)).tolist()


def made(folder: Path, model_class: str, pack: Pack, config: Mapping[str, Any], quantization: Mapping[str, Any]) -> Any:
    """Writes a packed checkpoint into the folder; returns the model that it stands for."""
    settings = {**SIZES, **config}
    tiny = tiny_config(model_class, architectures=[model_class], **settings)
    source: Any = randomised(ArchitectureChecks.reference(tiny))
    source.save_pretrained(folder)
    file, plain = folder / "model.safetensors", folder / "plain"
    stored = load_file(file)
    meant, packed = dict(stored), dict(stored)
    for name, weight in stored.items():
        found = pack(name, weight) if name.endswith(".weight") and weight.dim() == 2 else None
        if found is not None:
            tensors, meant[name] = found
            del packed[name]
            packed |= {name.removesuffix("weight") + end: each.contiguous() for end, each in tensors.items()}
    raw = json.loads((folder / "config.json").read_text())
    plain.mkdir()
    (plain / "config.json").write_text(json.dumps(raw))
    save_file({name: each.contiguous() for name, each in meant.items()}, plain / "model.safetensors", {"format": "pt"})
    save_file(packed, file)
    (folder / "config.json").write_text(json.dumps(raw | {"quantization_config": dict(quantization)}))
    return AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32, attn_implementation="eager").eval()


def serve(folder: Path, **options: Any) -> Served:
    return Served(folder, PluginHost.discover(PluginOptions(autoload=False), strict=True), **options)


def same(served: Served, reference: Any) -> None:
    """The model computes what the reference does."""
    expected, answer = continuation(reference, PROMPT, 12), served.answers([PROMPT], 12)[0]
    assert answer.error is None
    assert answer.tokens == expected.tokens
    assert max(abs(a - b) for a, b in zip(answer.logprobs, expected.logprobs, strict=True)) < 1e-4


def shared(folder: Path, **options: Any) -> None:
    """Two ranks give the texts of one."""
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    due = texts(Served(folder, host, **options))
    assert_same_texts(served_in_ranks(folder, host, 2, texts, **options), due)


def refused(folder: Path, name: str, change: Callable[[Tensor], Tensor] | None, message: str) -> str:
    """What a start says, which matches the message, where a tensor of the checkpoint is changed, or gone."""
    tensors = load_file(folder / "model.safetensors")
    whole = tensors.pop(name)
    if change is not None:
        tensors[name] = change(whole).contiguous()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=message) as error:
        serve(folder, use_subgraphs=False)
    return str(error.value)


def held_by_plan(format: Any, tensors: Mapping[str, Tensor], weight: Tensor) -> float:
    """The bytes in which the CPU method holds the codes of a module, by those that the memory plan counts."""
    parts = {format.part(f"model.up_proj.{name}", TYPES[each.dtype])[1]: each for name, each in tensors.items()}
    method = PanelMethod(LinearContext(compute=torch.float32, device=torch.device("cpu")))
    held = method.create_codes(weight.shape[0], weight.shape[1], [format.layout(infos(parts))])
    assert held is not None
    held.load_codes(format.codes(parts), 0)
    headers = {"a": {f"model.up_proj.{name}": info for name, info in infos(tensors).items()}}
    values, size = codes_size(headers, format, WeightMap())
    assert values == weight.numel()
    return held.nbytes / size


@pytest.fixture(name="made")
def made_fixture() -> Callable[..., Any]:
    return made


@pytest.fixture(name="serve")
def serve_fixture() -> Callable[..., Served]:
    return serve


@pytest.fixture(name="same")
def same_fixture() -> Callable[..., None]:
    return same


@pytest.fixture(name="shared")
def shared_fixture() -> Callable[..., None]:
    return shared


@pytest.fixture(name="refused")
def refused_fixture() -> Callable[..., str]:
    return refused


@pytest.fixture(name="held_by_plan")
def held_by_plan_fixture() -> Callable[..., float]:
    return held_by_plan
