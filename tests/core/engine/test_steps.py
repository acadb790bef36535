"""Several steps of decoding between two looks of the policy (`--max-num-steps`), and empty steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.plugins.schedulers.continuous import Continuous

VOCAB, EOS = 211, 7
GREEDY = {"temperature": {"temperature": 0.0}}

Run = Callable[..., dict[str, list[Output]]]


class Counts:
    """A model, or a policy, that notes what it is asked."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.batches: list[int] = []
        self.plans = 0
        self.logits = getattr(inner, "logits", None)
        self.fail_at: int | None = None

    def forward(self, step: Any) -> Any:
        if len(self.batches) == self.fail_at:
            raise RuntimeError("boom")
        self.batches.append(len(step.inputs.seq_lens))
        return self.inner.forward(step)

    def plan(self, view: Any, plan: Any) -> None:
        self.plans += 1
        self.inner.plan(view, plan)


@pytest.fixture
def counting(make_engine: Any) -> Callable[..., tuple[Any, Counts, Counts]]:
    def make(**options: Any) -> tuple[Any, Counts, Counts]:
        inner = make_engine(**options)
        model = Counts(inner._parts.runner._model)
        policy = Counts(Continuous(type("C", (), {"limits": inner._limits})()))  # type: ignore[arg-type]
        return make_engine(model=model, policy=policy, **options), model, policy

    return make


def asks(id: str, count: int, prompt: tuple[int, ...] = (1, 2, 3), **params: Any) -> Request:
    params = {"ignore_eos": True, **params}
    return Request(id=id, prompt=prompt, params=SamplingParams(max_tokens=count, fields=GREEDY, **params))


def next_token(tokens: list[int]) -> int:
    return (sum((i + 1) * (t + 3) for i, t in enumerate(tokens)) * 31 + 17) % VOCAB


def answer(prompt: tuple[int, ...], count: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


def test_a_burst_is_one_output_and_one_plan(counting: Any, run: Run) -> None:
    engine, model, policy = counting(steps=4)
    engine.add(asks("a", 10))
    outputs = run(engine)["a"]
    assert [len(o.tokens) for o in outputs] == [1, 4, 4, 1]
    assert [t for o in outputs for t in o.tokens] == answer((1, 2, 3), 10)
    assert (policy.plans, len(model.batches), engine.stats().steps) == (4, 10, 10)
    assert engine.stats().generated_tokens == 10


def test_steps_shrink_to_the_largest_need_and_who_is_done_leaves(counting: Any, run: Run) -> None:
    engine, model, policy = counting(steps=10)
    engine.add(asks("short", 3))
    engine.add(asks("long", 6))
    outputs = run(engine)
    assert [len(o.tokens) for o in outputs["short"]] == [1, 2]
    assert [len(o.tokens) for o in outputs["long"]] == [1, 5]
    assert model.batches == [2, 2, 2, 1, 1, 1]
    assert policy.plans == 2


def test_an_end_token_ends_its_own_burst_only(counting: Any, run: Run) -> None:
    stop = answer((1, 2, 3), 3)[-1]
    engine, model, _ = counting(steps=10)
    engine.add(asks("stops", 10, stop_token_ids=(stop,)))
    engine.add(asks("goes on", 8, (4, 5, 6, 7)))
    outputs = run(engine)
    assert [t for o in outputs["stops"] for t in o.tokens] == answer((1, 2, 3), 3)
    assert [o.finish for o in outputs["stops"]] == [None, "stop"]
    assert [t for o in outputs["goes on"] for t in o.tokens] == answer((4, 5, 6, 7), 8)
    assert model.batches == [2, 2, 2, 1, 1, 1, 1, 1]


def test_a_batch_with_a_prompt_in_it_is_one_step(counting: Any) -> None:
    engine, model, _ = counting(steps=5, in_flight=True)
    engine.add(asks("a", 20))
    engine.step()
    engine.add(asks("b", 20, (5, 6)))
    assert [len(o.tokens) for o in engine.step()] == [1, 1]
    assert [len(o.tokens) for o in engine.step()] == [5, 5]
    assert len(model.batches) == 7


def test_steps_are_fewer_where_pages_are_short(counting: Any, run: Run) -> None:
    engine, _, _ = counting(steps=40, pages=3, page_size=16, rows=2)
    for id, prompt in (("a", (1, 2, 3)), ("b", (4, 5, 6, 7))):
        engine.add(asks(id, 25, prompt))
    outputs = run(engine)
    assert [t for o in outputs["a"] for t in o.tokens] == answer((1, 2, 3), 25)
    assert [t for o in outputs["b"] for t in o.tokens] == answer((4, 5, 6, 7), 25)
    assert max(len(o.tokens) for o in outputs["a"]) < 24


def test_pages_of_all_steps_are_had_before_the_first(make_engine: Any) -> None:
    engine = make_engine(steps=20)
    engine.add(asks("a", 40))
    engine.step()
    assert engine.stats().cache.owned == 1
    engine.step()
    assert engine.stats().cache.owned == 2


def test_a_burst_that_breaks_off_gives_what_it_had(counting: Any, run: Run) -> None:
    engine, model, _ = counting(steps=6)
    model.fail_at = 4
    engine.add(asks("a", 20))
    outputs = run(engine)["a"]
    assert [t for o in outputs for t in o.tokens] == answer((1, 2, 3), 4)
    assert [o.finish for o in outputs] == [None, None, "error"]


@pytest.mark.parametrize("overlap", [False, True])
def test_steps_of_nobody_are_run_when_there_is_nothing_else(counting: Any, run: Run, overlap: bool) -> None:
    engine, model, _ = counting(empty=True, overlap=overlap)
    assert engine.step() == []
    assert model.batches == [0]
    engine.add(asks("a", 2))
    assert [t for o in run(engine)["a"] for t in o.tokens] == answer((1, 2, 3), 2)
    assert model.batches == [0, 1, 1]
    engine.step()
    assert model.batches == [0, 1, 1, 0]


def test_without_the_option_nobody_means_nothing(counting: Any) -> None:
    engine, model, _ = counting()
    assert engine.step() == []
    assert model.batches == []
