"""The order of waiting requests by priority; running ones stay."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import Request, SamplingParams


def request(id: str, priority: int = 0, user: str = "") -> Request:
    params = SamplingParams(max_tokens=3, ignore_eos=True, fields={"temperature": {"temperature": 0.0}})
    return Request(id=id, prompt=(1, 2, 3), params=params, priority=priority, user=user)


@pytest.mark.parametrize("scheduler", ["continuous", "fair", "tts"])
def test_lower_numbers_first_then_arrival(make_engine: Any, run: Any, scheduler: str) -> None:
    engine = make_engine(rows=1, scheduler=scheduler)
    engine.add(request("first", priority=9))
    engine.step()  # it runs, and no other request takes its row
    for id, priority in (("a", 1), ("b", 0), ("c", -5), ("d", 0), ("e", 1)):
        engine.add(request(id, priority))
    assert list(run(engine)) == ["first", "c", "b", "d", "a", "e"]


def test_those_who_are_gone_leave_no_line_behind(make_engine: Any, run: Any) -> None:
    engine = make_engine(rows=1)
    for id, priority in (("low", 1), ("high", 0), ("low2", 1)):
        engine.add(request(id, priority))
    engine.abort(["high", "low"])
    assert list(run(engine)) == ["low2"]
    assert not engine._queues.lines


def test_a_scheduler_that_ignores_it_refuses_it(make_engine: Any) -> None:
    engine = make_engine()
    unsupported = {"priority": "means nothing with --scheduler mine"}
    other = Engine(replace(engine._parts, info=replace(engine.info, unsupported=unsupported)))
    other.add(request("none"))
    with pytest.raises(RequestError, match="priority means nothing with --scheduler mine") as caught:
        other.add(request("some", priority=1))
    assert caught.value.param == "priority"
    other.abort(["none"])
