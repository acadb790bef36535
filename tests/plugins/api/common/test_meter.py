"""What observers hear of a request."""

from __future__ import annotations

import time

from maxserve.core.interfaces.observer import RequestStats, StepStats
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.meter import Meter


class Sink:
    def __init__(self) -> None:
        self.heard: list[RequestStats] = []

    def on_step(self, stats: StepStats) -> None: ...

    def on_request(self, stats: RequestStats) -> None:
        self.heard.append(stats)


def test_a_trace_can_be_made_of_what_observers_hear() -> None:
    sink, before = Sink(), time.time()
    meter = Meter([sink], "/v1/completions", "cmpl-1")
    meter.model = "tiny"
    meter.add(0, TextDelta(text="a", tokens=(1,), generated=1))
    meter.finish(200)
    meter.finish(500)
    (stats,) = sink.heard
    assert (stats.id, stats.model, stats.status) == ("cmpl-1", "tiny", 200)
    assert stats.first_token is not None
    assert before <= stats.started <= stats.first_token <= stats.finished <= time.time()


def test_a_request_without_a_token_has_no_time_of_the_first_one() -> None:
    sink = Sink()
    Meter([sink], "/v1/completions", "cmpl-2").finish(400)
    (stats,) = sink.heard
    assert (stats.id, stats.model, stats.first_token) == ("cmpl-2", "", None)
