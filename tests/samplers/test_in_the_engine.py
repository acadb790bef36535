"""Samplers that look at histories, in whatever way steps are run: beside transformers' own generation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import maxserve
from maxserve.core.interfaces.errors import RequestError

PROMPTS = [[5 + (i * k) % 60 for i in range(20 + k)] for k in (1, 3, 7, 11)]
WAYS: list[dict[str, Any]] = [
    {},
    {"max_num_steps": 4},
    {"enable_overlap_scheduler": True},
    # Prompts in pieces, beside answers.
    {"max_batch_input_tokens": 16, "max_batch_total_tokens": 64, "max_length": 64, "enable_in_flight_batching": True},
]


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


@pytest.mark.parametrize("options", WAYS)
def test_greedy_answers_are_those_of_transformers(folder: Path, model: Any, options: dict[str, Any]) -> None:
    llm = maxserve.LLM(str(folder), max_batch_size=3, **options)
    banned = [[9], [12, 13]]
    done = llm.generate(
        PROMPTS, max_tokens=12, temperature=0, repetition_penalty=1.4, bad_words_ids=banned, min_tokens=12
    )
    for prompt, one in zip(PROMPTS, done, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=12,
            min_new_tokens=12,
            do_sample=False,
            repetition_penalty=1.4,
            bad_words_ids=banned,
            pad_token_id=0,
        )
        assert list(one.tokens) == expected[0, len(prompt) :].tolist()


def test_words_are_banned_by_their_text(folder: Path) -> None:
    llm = maxserve.LLM(str(folder))
    plain = llm.generate("the quick", max_tokens=12, temperature=0, ignore_eos=True)[0]
    word = next(text for token in plain.tokens if (text := llm.tokenizer.decode([token]).strip()).isascii() and text)
    without = llm.generate("the quick", max_tokens=12, temperature=0, ignore_eos=True, bad_words=[word])[0]
    for form in (word, f" {word}"):
        ids = tuple(llm.tokenizer.encode(form, add_special_tokens=False))
        assert not any(without.tokens[i : i + len(ids)] == ids for i in range(len(without.tokens)))


def test_allowed_tokens_and_bias(folder: Path) -> None:
    llm = maxserve.LLM(str(folder))
    few = llm.generate("a", max_tokens=30, seed=1, ignore_eos=True, allowed_token_ids=[7, 8, 9])[0]
    assert set(few.tokens) <= {7, 8, 9}
    assert len(set(few.tokens)) > 1
    pushed = llm.generate("a", max_tokens=10, temperature=0, ignore_eos=True, logit_bias={"11": 100})[0]
    assert set(pushed.tokens) == {11}
    assert 11 not in llm.generate("a", max_tokens=10, ignore_eos=True, logit_bias={"11": False})[0].tokens


def test_penalties_spread_the_answer(folder: Path) -> None:
    llm = maxserve.LLM(str(folder))
    fields = {"max_tokens": 40, "seed": 2, "ignore_eos": True, "allowed_token_ids": list(range(10, 60))}
    kinds = [len(set(llm.generate("a", frequency_penalty=p, **fields)[0].tokens)) for p in (-2.0, 0.0, 2.0)]
    assert kinds[0] < kinds[1] < kinds[2]


@pytest.mark.parametrize(
    ("field", "value"), [("logit_bias", {"99999": 1}), ("allowed_token_ids", [99999]), ("bad_words_ids", [[99999]])]
)
def test_ids_that_the_model_does_not_have(folder: Path, field: str, value: Any) -> None:
    with pytest.raises(RequestError, match=r"99999 is outside the vocabulary") as caught:
        maxserve.LLM(str(folder)).generate("a", **{field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("options", WAYS)
def test_wishes_that_leave_no_token_end_the_answer(folder: Path, options: dict[str, Any]) -> None:
    llm = maxserve.LLM(str(folder), max_batch_size=3, **options)
    stuck = {"allowed_token_ids": [5], "logit_bias": {"5": False}}
    (done,) = llm.generate("a page", max_tokens=5, seed=1, logprobs=1, **stuck)
    assert (done.finish, done.tokens, done.text, done.logprobs) == ("stop", (), "", ())
    once = llm.generate("a page", max_tokens=5, allowed_token_ids=[5, 6], bad_words_ids=[[6], [5, 5]])[0]
    assert (once.finish, once.tokens) == ("stop", (5,))
