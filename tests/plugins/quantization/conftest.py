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

from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.testing.architecture import ArchitectureChecks, randomised
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


@pytest.fixture(name="made")
def made_fixture() -> Callable[..., Any]:
    return made


@pytest.fixture(name="serve")
def serve_fixture() -> Callable[..., Served]:
    return serve


@pytest.fixture(name="same")
def same_fixture() -> Callable[..., None]:
    return same
