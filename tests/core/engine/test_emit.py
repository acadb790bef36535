"""The outputs of completed steps: tokens of requests, their ends, and the faults that end them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maxserve.core.engine.draw import Stage
from maxserve.core.engine.emit import merged
from maxserve.core.interfaces.request import Output, Request, SamplingParams, TokenLogprob

VOCAB, EOS = 211, 7
GREEDY = {"temperature": {"temperature": 0.0}}
PROMPT = (1, 2, 3)

Run = Callable[..., dict[str, list[Output]]]


def asking(id: str = "r", prompt: tuple[int, ...] = PROMPT, **params: Any) -> Request:
    return Request(id=id, prompt=prompt, params=SamplingParams(fields=GREEDY, **params))


def continuation(count: int, prompt: tuple[int, ...] = PROMPT) -> list[int]:
    """What the hashing model continues a prompt with."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append((sum((i + 1) * (t + 3) for i, t in enumerate(tokens)) * 31 + 17) % VOCAB)
    return tokens[len(prompt) :]


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


@pytest.fixture(params=[{}, {"overlap": True}, {"steps": 4}], ids=["plain", "overlap", "bursts"])
def answers(request: pytest.FixtureRequest, make_engine: Any, run: Run) -> Callable[..., dict[str, list[Output]]]:
    """Runs requests to their ends in an engine of its own."""

    def answers(*requests: Request, **options: Any) -> dict[str, list[Output]]:
        engine = make_engine(**request.param, **options)
        for each in requests:
            engine.add(each)
        return run(engine)

    return answers


class Bars:
    """A sampler that leaves the rows of one request `allowed` tokens, and then none."""

    def __init__(self, id: str, allowed: int) -> None:
        self.id, self.allowed = id, allowed

    def prepare(self, rows: Any) -> list[int]:
        owners = enumerate(rows.owners)
        generated = [len(tokens) - length for tokens, length in zip(rows.tokens, rows.prompt_lengths, strict=True)]
        return [i for i, owner in owners if owner.id == self.id and generated[i] >= self.allowed]

    def apply(self, logits: torch.Tensor, state: list[int]) -> torch.Tensor:
        changed = logits.clone()
        changed[state] = -torch.inf
        return changed


def test_an_answer_of_its_length_ends_with_the_last_token(answers: Any) -> None:
    outputs = answers(asking(max_tokens=6, ignore_eos=True))["r"]
    assert tokens_of(outputs) == continuation(6)
    assert [output.finish for output in outputs] == [None] * (len(outputs) - 1) + ["length"]


def test_a_stop_token_is_part_of_the_answer_that_it_ends(answers: Any) -> None:
    stop = continuation(5)[-1]
    found = answers(asking(max_tokens=20, ignore_eos=True, stop_token_ids=(stop,)), asking("other", max_tokens=9))
    assert tokens_of(found["r"]) == continuation(5)
    assert [output.finish for output in found["r"]][-1] == "stop"
    assert len(tokens_of(found["other"])) == 9


def test_the_end_token_of_the_model_ends_an_answer_unless_it_is_ignored(answers: Any) -> None:
    """Of the prompts that are tried, one whose continuation comes to the end token soon."""
    prompt = next((1, i) for i in range(VOCAB) if EOS in continuation(8, (1, i))[:-1])
    end = continuation(8, prompt).index(EOS) + 1
    found = answers(
        asking("ends", prompt, max_tokens=8),
        asking("goes on", prompt, max_tokens=8, ignore_eos=True),
    )
    assert (tokens_of(found["ends"]), found["ends"][-1].finish) == (continuation(end, prompt), "stop")
    assert (tokens_of(found["goes on"]), found["goes on"][-1].finish) == (continuation(8, prompt), "length")


def test_a_row_that_was_left_no_token_stops_without_one(answers: Any) -> None:
    stages = [Stage.of("bars", Bars("r", 3), keeps_argmax=False)]
    found = answers(
        asking(max_tokens=9, ignore_eos=True), asking("other", max_tokens=9, ignore_eos=True), stages=stages
    )
    assert (tokens_of(found["r"]), found["r"][-1].finish, found["r"][-1].error) == (continuation(3), "stop", None)
    assert (tokens_of(found["other"]), found["other"][-1].finish) == (continuation(9), "length")


def test_the_first_output_alone_has_times_and_the_logprobs_of_the_prompt(answers: Any) -> None:
    outputs = answers(asking(prompt=(*range(20, 60),), max_tokens=5, ignore_eos=True, logprobs=2, prompt_logprobs=0))[
        "r"
    ]
    assert [bool(output.scheduled) for output in outputs] == [True] + [False] * (len(outputs) - 1)
    assert [len(output.prompt_logprobs) for output in outputs] == [39] + [0] * (len(outputs) - 1)
    entries = [entry for output in outputs for entry in output.logprobs]
    assert [entry.token for entry in entries] == tokens_of(outputs)
    assert all((entry.rank, len(entry.ids)) == (1, 2) for entry in entries)


def test_outputs_count_the_prompt_tokens_that_were_cached(make_engine: Any, run: Run) -> None:
    engine = make_engine()
    prompt = (*range(20, 60),)
    for id, cached in (("first", 0), ("second", 32)):
        engine.add(asking(id, prompt, max_tokens=3, ignore_eos=True))
        assert [output.cached for output in run(engine)[id]] == [cached] * 3


def test_an_aborted_request_has_no_more_outputs(make_engine: Any, run: Run) -> None:
    engine = make_engine()
    engine.add(asking(max_tokens=50, ignore_eos=True))
    engine.add(asking("other", max_tokens=8, ignore_eos=True))
    before = [output for _ in range(3) for output in engine.next_outputs()]
    engine.abort("r")
    after = run(engine)
    assert {output.id for output in before} == {"r", "other"}
    assert after.keys() == {"other"}
    assert tokens_of([output for output in before if output.id == "other"] + after["other"]) == continuation(8)


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("out of memory"), "RuntimeError: out of memory"), (AssertionError(), "AssertionError")],
)
def test_a_step_that_fails_ends_each_of_its_requests_with_the_cause(
    make_engine: Any, run: Run, error: Exception, reason: str
) -> None:
    class Fails:
        def forward(self, step: Any) -> Any:
            raise error

    engine = make_engine(model=Fails())
    for id in "ab":
        engine.add(asking(id, max_tokens=3))
    for outputs in run(engine).values():
        assert [(o.finish, o.tokens, o.error) for o in outputs] == [("error", (), f"the model step failed: {reason}")]


# --- outputs of several steps as those of one -----------------------------------------------------------------------


def entry(token: int) -> TokenLogprob:
    return TokenLogprob(token=token, logprob=-1.0, rank=1)


def test_tokens_and_logprobs_of_two_steps_are_joined_and_the_later_end_counts() -> None:
    before = [
        Output(id="a", tokens=(1,), logprobs=(entry(1),), cached=4, scheduled=9.0, prompt_logprobs=(entry(8),)),
        Output(id="b", tokens=(5,), finish="stop"),
    ]
    after = [Output(id="a", tokens=(2, 3), logprobs=(entry(2), entry(3)), finish="length", cached=4)]
    assert merged(before, after) == [
        Output(
            id="a",
            tokens=(1, 2, 3),
            logprobs=(entry(1), entry(2), entry(3)),
            finish="length",
            cached=4,
            scheduled=9.0,
            prompt_logprobs=(entry(8),),
        ),
        Output(id="b", tokens=(5,), finish="stop"),
    ]


def test_an_error_follows_the_tokens_of_the_step_before() -> None:
    tokens, error = Output(id="a", tokens=(1,)), Output(id="a", finish="error", error="boom")
    assert merged([tokens], [error]) == [tokens, error]
    assert merged([], [error]) == [error]
