"""The model that ships: complete, small, loadable, and able to answer what a newcomer asks first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maxserve.plugins import demo
from maxserve.testing import ModelSourceChecks

LIMIT = 12 * 1024 * 1024
COMPANION_LIMIT = 3 * 1024 * 1024


@pytest.fixture(scope="module")
def folder() -> Path:
    source = demo.maxserve_model_source(demo.DEMO)
    assert source is not None
    return Path(source.path)


class TestSource(ModelSourceChecks):
    plugin = demo
    refs = tuple(demo.FOLDERS)
    others = (*ModelSourceChecks.others, "org/name", "maxserve/demo2")


@pytest.mark.parametrize("ref", [demo.HEAD, demo.DRAFT])
def test_companions_are_small(ref: str) -> None:
    source = demo.maxserve_model_source(ref)
    assert source is not None
    assert sum(path.stat().st_size for path in Path(source.path).iterdir()) <= COMPANION_LIMIT


def test_files_are_there_and_small(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(path.stat().st_size for path in folder.iterdir()) <= LIMIT


def test_weights_are_bfloat16_and_tied(folder: Path) -> None:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert "lm_head.weight" not in tensors


def test_config_names_the_limits(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    generation = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    tokens = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {entry["content"]: entry["id"] for entry in tokens["added_tokens"]}
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 1024
    assert generation["eos_token_id"] == config["eos_token_id"] == [ids["<|im_end|>"], ids["<|endoftext|>"]]
    assert "maxserve" in (folder / "README.md").read_text(encoding="utf-8")


class Desk:
    """The demo model, run by transformers in float32."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def ask(self, *messages: str) -> str:
        """The greedy answer to the last message; user and assistant take turns."""
        roles = ("user", "assistant")
        said = [{"role": roles[i % 2], "content": content} for i, content in enumerate(messages)]
        inputs = self.tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        return self._continue(inputs["input_ids"])

    def complete(self, text: str) -> str:
        """The greedy continuation of plain text."""
        return self._continue(self.tokenizer(text, return_tensors="pt")["input_ids"])

    def _continue(self, ids: Any) -> str:
        import torch

        out = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=120, do_sample=False)
        assert out.shape[1] < ids.shape[1] + 120, "the text did not end by itself"
        return str(self.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def desk(folder: Path) -> Desk:
    return Desk(folder)


@pytest.mark.parametrize(
    ("question", "key"),
    [
        ("What is maxserve?", "model server"),
        ("Who are you?", "demo model"),
        ("How do I serve a model from Hugging Face?", "max serve --model org/name"),
        ("how do I change the port", "--port"),
        ("port?", "8000"),
        ("What does --max-length do?", "`--max-length` limits"),
        ("How can I open the server to the network?", "--host 0.0.0.0"),
        ("what is the default of --max-lora-rank", "16"),
        ("how do I use the openai client?", "from openai import OpenAI"),
        ("How do I use the OpenAI client?", "from openai import OpenAI"),
        ("How do I use it from Python?", "from openai import OpenAI"),
        ("Does it run on a GPU?", "--devices"),
        ("How do I write a sampler plugin?", "maxserve_samplers"),
        ("Which endpoints are there?", "/v1/chat/completions"),
        ("What is the capital of France?", "only know maxserve"),
        ("hello", "maxserve"),
        ("thanks", "welcome"),
        ("does it support LoRA?", "`--enable-lora`"),
        ("can it use two graphics cards?", "`--devices`"),
        ("which python do i need", "3.11"),
        ("does this thing phone home?", "no telemetry"),
        ("CUDA out of memory", "--max-batch-size"),
        ("what happens if the worker crashes", "503"),
        ("other machine cannot connect", "--host 0.0.0.0"),
        ("which models can I run?", "Qwen3"),
        ("how do I use it from python", "from openai import OpenAI"),
        ("write me a love letter", "only know maxserve"),
    ],
)
def test_a_newcomer_gets_the_right_answer(desk: Desk, question: str, key: str) -> None:
    assert key in desk.ask(question)


def test_a_follow_up_is_about_the_option_before(desk: Desk) -> None:
    first = desk.ask("What does --port do?")
    assert "8000" in desk.ask("What does --port do?", first, "and the default?")


def test_plain_text_is_continued_in_english(desk: Desk) -> None:
    text = desk.complete("maxserve is")
    assert text.endswith(".")
    assert "plugin" in text or "model server" in text
