"""Folders as people publish them: the same ids and the same logits as transformers', whatever else lies there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import maxserve

PROMPT = "The server "
EXACT = {"native__precision": "exact"}  # transformers has the weights in float32
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def expected() -> Any:
    return greedy(maxserve.LLM(**EXACT))


def greedy(llm: Any) -> Any:
    """Ids and logprobs, of the prompt too."""
    done = llm.generate(PROMPT, max_tokens=8, temperature=0, logprobs=2, prompt_logprobs=2)[0]
    return done.tokens, [(s.token, round(s.logprob, 4)) for s in (*done.prompt_logprobs, *done.logprobs)]


def rewrite(folder: Path, change: Callable[[Tensors], Tensors]) -> None:
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def in_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    where = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in names if where[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (folder / "model.safetensors").unlink()


def copies(*names: str) -> Callable[[Path], None]:
    def beside(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(folder / "model.safetensors", folder / name)

    return beside


def renamed(prefix: str, instead: str) -> Callable[[Path], None]:
    def change(tensors: Tensors) -> Tensors:
        return {instead + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}

    return lambda folder: rewrite(folder, change)


def with_more(folder: Path) -> None:
    rewrite(folder, lambda tensors: {**tensors, "score.weight": torch.ones(2, 256), "v_head.bias": torch.ones(1)})


def untied(folder: Path) -> None:
    """A head of its own that equals the table, and a config that says so."""
    rewrite(folder, lambda tensors: {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))


def only_the_head(folder: Path) -> None:
    """Tied, and stored under the name of the other weight."""
    rewrite(
        folder, lambda tensors: {name.replace("model.embed_tokens", "lm_head"): each for name, each in tensors.items()}
    )


ODD: dict[str, Callable[[Path], None]] = {
    "an adapter and what training left": copies("adapter_model.safetensors", "training_state.safetensors"),
    "other precisions": copies("model.fp16.safetensors", "model.bf16-00001-of-00001.safetensors"),
    "the vendor's own format": copies("consolidated.safetensors", "consolidated.00.safetensors"),
    "folders": copies("original/model.safetensors", "onnx/model.safetensors"),
    "shards": in_shards,
    "shards beside the vendor's own format": lambda folder: (
        copies("consolidated.safetensors")(folder),
        in_shards(folder),
    )[1],
    "saved from the base class": renamed("model.", ""),
    "a head and a value beside": with_more,
    "untied": untied,
    "only the head's name": only_the_head,
}
NOT_TRANSFORMERS: dict[str, Callable[[Path], None]] = {  # which leaves these names unread, and so the model untrained
    "compiled": renamed("", "_orig_mod."),
    "trained in parallel": renamed("", "module."),
    "a merged adapter": renamed("", "base_model.model."),
    "a vision-language model": renamed("model.", "language_model.model."),
    "the text part of one": renamed("model.", "model.language_model."),
}


@pytest.mark.parametrize("name", [*ODD, *NOT_TRANSFORMERS])
def test_an_odd_folder_is_the_model_it_holds(demo_copy: Path, name: str, expected: Any) -> None:
    (ODD | NOT_TRANSFORMERS)[name](demo_copy)
    assert greedy(maxserve.LLM(str(demo_copy), **EXACT)) == expected


@pytest.mark.parametrize("name", ODD)
def test_transformers_reads_it_so(demo_copy: Path, name: str, expected: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ODD[name](demo_copy)
    ids = AutoTokenizer.from_pretrained(demo_copy)(PROMPT, return_tensors="pt").input_ids
    model = AutoModelForCausalLM.from_pretrained(demo_copy, dtype=torch.float32)
    with torch.inference_mode():
        found = model(ids).logits[0].log_softmax(-1)
    wanted = expected[1][: ids.shape[1] - 1]
    assert [token for token, _ in wanted] == ids[0, 1:].tolist()
    for row, (token, logprob) in zip(found, wanted, strict=False):
        assert float(row[token]) == pytest.approx(logprob, abs=2e-3)
