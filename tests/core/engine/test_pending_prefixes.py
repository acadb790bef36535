"""Requests that begin alike and arrive together compute their prefix once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.engine.plan import MOST_HELD_BACK
from maxserve.core.interfaces.request import Output, Request, SamplingParams

Run = Callable[..., dict[str, list[Output]]]
PROMPT = tuple((7 * i + 3) % 200 for i in range(100))  # six pages of 16 and a rest


def ask(id: str, prompt: tuple[int, ...] = PROMPT, **fields: Any) -> Request:
    fields = {"max_tokens": 4, "ignore_eos": True, **fields}
    salt = fields.pop("salt", "")
    return Request(id=id, prompt=prompt, params=SamplingParams(**fields), salt=salt)


def cached(engine: Any, run: Run, *requests: Request) -> dict[str, int]:
    for request in requests:
        engine.add(request)
    return {id: outputs[-1].cached for id, outputs in run(engine).items()}


@pytest.mark.parametrize("scheduler", ["continuous", "tts", "fair"])
@pytest.mark.parametrize(
    "options", [{}, {"overlap": True}, {"in_flight": True}, {"tokens": 48}, {"tokens": 48, "overlap": True}]
)
def test_siblings_share_one_prefill(make_engine: Any, run: Run, scheduler: str, options: dict[str, Any]) -> None:
    engine = make_engine(scheduler=scheduler, **options)
    found = cached(engine, run, *(ask(str(i), seed=i) for i in range(8)))
    assert found == {"0": 0} | {str(i): 96 for i in range(1, 8)}


def test_texts_are_those_of_requests_that_came_alone(make_engine: Any, run: Run) -> None:
    requests = [ask(str(i), (*PROMPT, i), seed=i) for i in range(6)]
    together = make_engine()
    for request in requests:
        together.add(request)
    outputs = run(together)
    for request in requests:
        alone = make_engine()
        alone.add(request)
        assert [o.tokens for o in run(alone)[request.id]] == [o.tokens for o in outputs[request.id]]


def test_a_system_prompt_is_computed_once(make_engine: Any, run: Run) -> None:
    found = cached(make_engine(), run, *(ask(str(i), PROMPT + (i,) * 30) for i in range(4)))
    assert found == {"0": 0, "1": 96, "2": 96, "3": 96}


@pytest.mark.parametrize(
    "other",
    [
        ask("other", (5, *PROMPT[1:])),  # begins otherwise
        ask("other", PROMPT, salt="another's"),
        ask("other", PROMPT[:10]),  # fills no page
        ask("other", PROMPT[:16] + (9,) * 60),  # shares too little to wait for
        ask("other", PROMPT, prompt_logprobs=0),  # needs all rows computed
    ],
    ids=["another prompt", "another salt", "no page", "too little", "prompt logprobs"],
)
def test_who_does_not_wait(make_engine: Any, run: Run, other: Request) -> None:
    engine = make_engine(tokens=400)
    engine.add(ask("first"))
    engine.add(other)
    assert {output.id for output in engine.step()} == {"first", "other"}
    run(engine)


def test_none_waits_where_nothing_is_shared(make_engine: Any, run: Run) -> None:
    engine = make_engine(tokens=400, share=False)
    engine.add(ask("first"))
    engine.add(ask("second"))
    assert len(engine.step()) == 2
    run(engine)


def test_the_first_is_aborted(make_engine: Any, run: Run) -> None:
    engine = make_engine(tokens=32)
    for id in ("first", "second"):
        engine.add(ask(id))
    engine.step()
    engine.abort(["first"])
    assert run(engine)["second"][-1].finish == "length"


def test_a_long_line_of_equals_costs_a_plan_little(make_engine: Any) -> None:
    engine = make_engine(tokens=32, rows=4)
    for i in range(200):
        engine.add(ask(str(i)))
    looked_at = 0
    peek = engine._cache.peek

    def counted(tokens: Any, salt: str) -> int:
        nonlocal looked_at
        looked_at += 1
        return int(peek(tokens, salt))

    engine._cache.peek = counted
    engine.step()
    assert looked_at <= MOST_HELD_BACK + 2
    engine.abort([str(i) for i in range(200)])
