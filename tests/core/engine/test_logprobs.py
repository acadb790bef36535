"""Logprobs of answers and prompts, beside a log-softmax of transformers' logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import maxserve
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import Request, SamplingParams

PROMPTS = ["the quick brown fox jumps over the lazy dog and on and on", "a page", "x y z"]


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Callable[[list[int]], torch.Tensor]:
    """Log-softmax of all rows, [tokens, vocab]: row i is about token i + 1."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")

    def rows(ids: list[int]) -> torch.Tensor:
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)

    return rows


def check(entries: Any, rows: torch.Tensor, tokens: list[int], most: int) -> None:
    assert [entry.token for entry in entries] == tokens
    for entry, row in zip(entries, rows, strict=True):
        assert abs(entry.logprob - row[entry.token].item()) < 1e-4
        assert len(entry.ids) == len(entry.logprobs) == most
        torch.testing.assert_close(torch.tensor(entry.logprobs).double(), row.topk(most).values, atol=1e-4, rtol=0)
        torch.testing.assert_close(row[list(entry.ids)], row.topk(most).values, atol=1e-4, rtol=0)
        above = (row > row[entry.token] + 1e-4).sum().item()
        assert above < entry.rank <= (row > row[entry.token] - 1e-4).sum().item() + 1


WAYS = [
    {},
    {"max_num_steps": 4},
    {"enable_overlap_scheduler": True},
    {"max_batch_input_tokens": 5},
    {"max_batch_input_tokens": 5, "enable_overlap_scheduler": True, "enable_in_flight_batching": True},
]


@pytest.mark.parametrize("options", WAYS)
def test_they_are_the_models_own(folder: Path, reference: Any, options: dict[str, Any]) -> None:
    llm = maxserve.LLM(str(folder), max_batch_size=4, **options)
    fields = {"temperature": 1.3, "presence_penalty": 1.5, "top_k": 20, "seed": 3, "ignore_eos": True}
    for _ in range(2):  # the second time, the prompts are in the prefix cache
        for text, done in zip(
            PROMPTS, llm.generate(PROMPTS, max_tokens=9, logprobs=3, prompt_logprobs=2, **fields), strict=True
        ):
            prompt = llm.tokenizer.encode(text, add_special_tokens=True)
            rows = reference([*prompt, *done.tokens])
            check(done.prompt_logprobs, rows[: len(prompt) - 1], prompt[1:], 2)
            check(done.logprobs, rows[len(prompt) - 1 : -1], list(done.tokens), 3)


def test_zero_asks_for_the_chosen_tokens_only(folder: Path) -> None:
    llm = maxserve.LLM(str(folder))
    silent, chosen = (llm.generate("a page", max_tokens=4, temperature=0, logprobs=n)[0] for n in (None, 0))
    assert silent.logprobs == silent.prompt_logprobs == chosen.prompt_logprobs == ()
    assert [(entry.ids, entry.logprobs, entry.rank) for entry in chosen.logprobs] == [((), (), 1)] * 4


def test_rows_that_want_none_beside_rows_that_do(folder: Path, reference: Any) -> None:
    llm = maxserve.LLM(str(folder), max_batch_size=4)
    quiet = llm.params(max_tokens=6, temperature=0, ignore_eos=True)
    loud = llm.params(max_tokens=6, temperature=0, ignore_eos=True, logprobs=1)
    engine, prompt = llm._engine, llm.tokenizer.encode("a page", add_special_tokens=True)
    for id, params in (("a", quiet), ("b", loud), ("c", quiet)):
        engine.add(Request(id=id, prompt=tuple(prompt), params=params))
    outputs: list[Any] = []
    while engine.busy:
        outputs += engine.step()
    assert not any(output.logprobs for output in outputs if output.id != "b")
    tokens = [token for output in outputs if output.id == "b" for token in output.tokens]
    rows = reference([*prompt, *tokens])[len(prompt) - 1 : -1]
    check([entry for output in outputs if output.id == "b" for entry in output.logprobs], rows, tokens, 1)


def test_a_prompt_is_shared_after_it_was_scored(folder: Path) -> None:
    llm = maxserve.LLM(str(folder), kv_cache_page_size=16)
    ids = [5 + i % 40 for i in range(50)]
    llm.generate([ids], max_tokens=1, prompt_logprobs=0)
    engine = llm._engine
    engine.reset_counters()
    again = llm.generate([ids], max_tokens=1, prompt_logprobs=0)[0]
    assert len(again.prompt_logprobs) == 49
    assert engine.stats().prefix_hits == 0
    llm.generate([ids], max_tokens=1)
    assert engine.stats().prefix_hits == 48


@pytest.mark.parametrize("field", ["logprobs", "prompt_logprobs"])
@pytest.mark.parametrize("value", [-1, 21])
def test_numbers_out_of_range_are_refused(folder: Path, field: str, value: int) -> None:
    with pytest.raises(RequestError, match=f"{field} must be between 0 and 20") as caught:
        maxserve.LLM(str(folder)).generate("x", max_tokens=1, **{field: value})
    assert caught.value.param == field


def test_switched_off(folder: Path) -> None:
    llm = maxserve.LLM(str(folder), enable_variable_logits=False, enable_penalties=False, enable_min_tokens=False)
    for field, value, flag in (
        ("prompt_logprobs", 1, "variable-logits"),
        ("frequency_penalty", 0.5, "penalties"),
        ("presence_penalty", 0.5, "penalties"),
        ("repetition_penalty", 1.5, "penalties"),
        ("min_tokens", 1, "min-tokens"),
    ):
        with pytest.raises(RequestError, match=f"{field}.*--enable-{flag}") as caught:
            llm.generate("x", max_tokens=1, **{field: value})
        assert caught.value.param == field
    neutral = {"frequency_penalty": 0.0, "presence_penalty": 0, "repetition_penalty": 1.0, "min_tokens": 0}
    assert len(llm.generate("x", max_tokens=2, logprobs=1, ignore_eos=True, **neutral)[0].logprobs) == 2


@pytest.mark.parametrize("overlap", [False, True])
def test_they_come_once_also_when_pages_are_lost(make_engine: Any, run: Any, overlap: bool) -> None:
    def outputs(pages: int) -> tuple[Any, int]:
        engine = make_engine(pages=pages, rows=4, tokens=7, in_flight=True, overlap=overlap, max_length=90)
        for number in range(4):
            prompt = tuple(1 + (number + i * i) % 50 for i in range(20 + number))
            fields = {"temperature": {"temperature": 0.0}}
            params = SamplingParams(max_tokens=30, ignore_eos=True, logprobs=1, prompt_logprobs=1, fields=fields)
            engine.add(Request(id=str(number), prompt=prompt, params=params))
        found = run(engine)
        return found, engine.stats().preemptions

    (few, preempted), (plenty, undisturbed) = outputs(8), outputs(64)
    assert preempted > 0 == undisturbed
    for id, expected in plenty.items():
        found = [output.prompt_logprobs for output in few[id] if output.prompt_logprobs]
        assert found == [output.prompt_logprobs for output in expected if output.prompt_logprobs]
        assert [len(each) for each in found] == [19 + int(id)]
        entries = [entry for output in few[id] for entry in output.logprobs]
        assert entries == [entry for output in expected for entry in output.logprobs]
        assert [entry.token for entry in entries] == [token for output in few[id] for token in output.tokens]
