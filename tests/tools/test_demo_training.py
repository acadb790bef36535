"""The training of the demo model: it goes on where it stopped and exports what transformers loads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

Tools = dict[str, ModuleType]


@pytest.fixture
def small(tools: Tools, corpus: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the same kind with one narrow layer, and a corpus and a tokenizer that are there already."""
    shape = tools["model"].shape

    def narrow(tokenizer: Any) -> Any:
        config = shape(tokenizer)
        config.hidden_size, config.intermediate_size, config.num_hidden_layers = 32, 64, 1
        config.num_attention_heads, config.num_key_value_heads, config.head_dim = 2, 1, 16
        return config

    monkeypatch.setattr(tools["train"], "shape", narrow)
    monkeypatch.setattr(tools["train"], "load", lambda: corpus)
    monkeypatch.setattr(tools["train"], "train_tokenizer", lambda *_: tokenizer)


def _train(tools: Tools, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> None:
    out = ["--out", str(folder), "--state", str(folder / "state.pt"), "--threads", "1", "--tokens", "512"]
    monkeypatch.setattr(sys, "argv", ["train.py", *out, *words])
    tools["train"].main()


@pytest.mark.usefixtures("small")
def test_training_learns_and_resumes(tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _train(tools, monkeypatch, tmp_path, "--steps", "6", "--warmup", "2")
    early = torch.load(tmp_path / "state.pt", weights_only=True)
    assert early["step"] == 6
    _train(tools, monkeypatch, tmp_path, "--steps", "9", "--warmup", "2", "--resume")
    late = torch.load(tmp_path / "state.pt", weights_only=True)
    assert late["step"] == 9
    assert not torch.equal(early["model"]["model.norm.weight"], late["model"]["model.norm.weight"])


@pytest.mark.usefixtures("small")
def test_export_is_a_folder_that_transformers_loads(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _train(tools, monkeypatch, tmp_path, "--steps", "1")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert model.dtype == torch.bfloat16
    assert model.config.tie_word_embeddings
    assert tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id) == ["<|im_end|>", "<|endoftext|>"]
    written = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert written == "<|im_start|>user\nhi<|im_end|>\n"


def test_learning_rate_rises_then_falls(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--steps", "1000", "--warmup", "100", "--rate", "0.01"])
    plan = tools["train"]._plan()
    rates = [tools["train"].learning_rate(step, 0.0, plan) for step in range(1000)]
    assert max(rates) == rates[99] == pytest.approx(0.01)
    assert rates[:100] == sorted(rates[:100])
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] < 0.0002


def test_learning_rate_follows_the_clock_when_time_is_short(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["train.py", "--steps", "1000", "--warmup", "0", "--rate", "0.01", "--minutes", "2"]
    )
    plan = tools["train"]._plan()
    assert tools["train"].learning_rate(10, 119.0, plan) < 0.0002 < tools["train"].learning_rate(10, 1.0, plan)


def test_loss_ignores_padding(tools: Tools, tokenizer: Any) -> None:
    config = tools["model"].shape(tokenizer)
    config.num_hidden_layers = 1
    torch.manual_seed(0)
    model = tools["train"].LlamaForCausalLM(config).float()
    ids = torch.randint(3, tokenizer.get_vocab_size(), (1, 12))
    batch = tools["dataset"].Batch(ids, torch.ones(1, 12))
    padded = tools["dataset"].Batch(
        torch.cat([ids, torch.zeros(1, 5, dtype=torch.long)], 1), torch.cat([torch.ones(1, 12), torch.zeros(1, 5)], 1)
    )
    one, other = tools["train"].loss_of(model, batch), tools["train"].loss_of(model, padded)
    assert one.item() == pytest.approx(other.item(), rel=1e-2)
