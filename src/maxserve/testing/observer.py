"""Checks of observers.

class TestAcme(ObserverChecks):
    observer = "acme"
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.observer import (
    BATCH_SIZE_EDGES,
    ITERATION_TOKENS_EDGES,
    Distribution,
    Observer,
    ObserverContext,
    RequestStats,
    ResponseStats,
    StatsObserver,
    StepStats,
    SupportsResponses,
)
from maxserve.testing.resolve import load, resolve

CALLS = 1000
LONGEST_CALL = 2e-3  # seconds, on an average: the event loop of all requests waits meanwhile


def step(number: int, **changes: Any) -> StepStats:
    """What the worker says after its step of that number."""
    given: dict[str, Any] = {
        "time": 0.01 * number,
        "running": number % 5,
        "waiting": number % 3,
        "cache": CacheSizes(total=100, free=60, cached=30, owned=10),
        "prefix_queries": 20 * number,
        "prefix_hits": 7 * number,
        "prompt_tokens": 20 * number,
        "generated_tokens": 4 * number,
        "steps": number,
        "page_size": 16,
        "iteration_tokens": Distribution((number,) + (0,) * len(ITERATION_TOKENS_EDGES), number),
        "batch_sizes": Distribution((number,) + (0,) * len(BATCH_SIZE_EDGES), number),
    }
    return StepStats(**given | changes)


def request(**changes: Any) -> RequestStats:
    """A request that was served."""
    given: dict[str, Any] = {
        "route": "/v1/completions",
        "status": 200,
        "prompt_tokens": 12,
        "generated_tokens": 3,
        "cached_tokens": 8,
        "finish": "stop",
        "queue_to_first_token": 0.1,
        "total": 0.3,
        "inter_token": (0.1, 0.1),
        "queue": 0.01,
        "prefill": 0.09,
        "decode": 0.2,
    }
    return RequestStats(**given | changes)


def response(**changes: Any) -> ResponseStats:
    """An answer of a route that is a plugin's."""
    given: dict[str, Any] = {
        "id": "a1",
        "method": "GET",
        "route": "/plugins/acme/{name}",
        "status": 200,
        "total": 0.01,
        "finished": 1000.0,
    }
    return ResponseStats(**given | changes)


RESPONSES = (response(), response(status=404, route=""), response(status=499), response(status=500, method="POST"))
REFUSED = request(status=400, generated_tokens=0, finish="error", queue_to_first_token=None, inter_token=())


class ObserverChecks:
    """Subclass it and name a registered `observer`, or give the `component` itself.

    `sections` are the plugin's settings, by schema. `heard` may be overridden to look at what the observer did. One
    with `on_response` gets RESPONSES as well.
    """

    observer: ClassVar[str] = ""
    component: ClassVar[Observer | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}

    def made(self) -> StatsObserver:
        """A fresh observer of a model."""
        build: Callable[[ObserverContext], StatsObserver] = load(resolve(Observer, self.observer, self.component).build)
        return build(ObserverContext(model="acme", max_length=4096, sections=self.sections))

    def heard(self, observer: StatsObserver, steps: Sequence[StepStats], requests: Sequence[RequestStats]) -> None:
        """Called once the observer received all of these."""

    def test_it_hears_of_steps_and_requests(self) -> None:
        observer = self.made()
        steps = [step(number) for number in range(20)]
        requests = [request(), REFUSED, request(finish="abort", n=3), request(route="/plugins/acme/x", status=500)]
        for each in steps:
            observer.on_step(each)
        for one in requests:
            observer.on_request(one)
        if isinstance(observer, SupportsResponses):
            for answer in RESPONSES:
                observer.on_response(answer)
        self.heard(observer, steps, requests)

    def test_a_worker_may_begin_anew(self) -> None:
        """Counters of another worker start at 0; a time before its first step has nothing to divide by."""
        observer = self.made()
        for number in (1, 50, 1, 1, 2):
            observer.on_step(step(number))
        observer.on_step(step(0, time=0.0, running=0, waiting=0, cache=CacheSizes(total=0, free=0, cached=0, owned=0)))

    def test_it_returns_at_once(self) -> None:
        observer = self.made()
        before = time.process_time()
        for number in range(CALLS):
            observer.on_step(step(number))
            observer.on_request(request())
        each = (time.process_time() - before) / (2 * CALLS)
        assert each < LONGEST_CALL, f"a call takes {each * 1e3:.1f} ms, in which no request is answered"
