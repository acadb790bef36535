from __future__ import annotations

import logging
from typing import Any

import pytest

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.observer import ObserverContext, StepStats
from maxserve.plugins.observers.log import INTERVAL, LogLine


def step(time: float, **changes: Any) -> StepStats:
    sizes = CacheSizes(total=10, free=5, cached=0, owned=5)
    return StepStats(time=time, cache=sizes, **{"running": 1, "waiting": 0, **changes})


def said(caplog: pytest.LogCaptureFixture, *steps: StepStats) -> list[str]:
    caplog.set_level(logging.INFO, logger="maxserve.stats")
    observer = LogLine(ObserverContext(model="tiny"))
    for stats in steps:
        observer.on_step(stats)
    return caplog.messages


def test_a_line_per_interval(caplog: pytest.LogCaptureFixture) -> None:
    steps = [step(0.1 * i, steps=i, generated_tokens=i, prompt_tokens=100) for i in range(int(INTERVAL * 10 * 3) + 2)]
    lines = said(caplog, *steps)
    assert len(lines) in (2, 3)
    assert lines[0].startswith("1 running, 0 waiting; 0 prompt and 10 generated tokens/s; cache 50% in use")


def test_drafts_have_their_shares_by_position(caplog: pytest.LogCaptureFixture) -> None:
    first = step(0.0, steps=1, drafts=10, draft_tokens=20, accepted_tokens=5, accepted_by_depth=(5,))
    later = step(INTERVAL, steps=9, drafts=20, draft_tokens=40, accepted_tokens=18, accepted_by_depth=(13, 5))
    [line] = said(caplog, first, later)
    assert line.endswith("; 65% of 20 drafts stood, by position 80% 50%")
    [line] = said(caplog, step(0.0, steps=1), step(INTERVAL, steps=9))[1:]
    assert "drafts" not in line


def test_silent_when_idle(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, step(0.0), step(INTERVAL * 2, running=0), step(INTERVAL * 4, running=0)) == []


def test_a_new_worker_that_has_caught_up_gives_no_negative_rates(caplog: pytest.LogCaptureFixture) -> None:
    first = [step(0.0, steps=1, generated_tokens=0), step(1.0, steps=5, generated_tokens=900)]
    second = [step(INTERVAL + n, steps=n + 1, generated_tokens=n) for n in range(int(INTERVAL) + 2)]
    assert "-" not in "".join(said(caplog, *first, *second))


def test_a_new_worker_gives_no_negative_rates(caplog: pytest.LogCaptureFixture) -> None:
    before = step(0.0, steps=100, generated_tokens=1000)
    lines = said(caplog, before, step(INTERVAL, steps=1), step(INTERVAL * 2, steps=11, generated_tokens=50))
    [line] = lines
    assert line.startswith(
        f"1 running, 0 waiting; 0 prompt and {50 / INTERVAL:.0f} generated tokens/s; cache 50% in use"
    )
