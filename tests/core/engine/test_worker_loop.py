"""The sleep of a worker between two steps. Without processes: a channel that notes what it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.runtime import worker
from maxserve.core.runtime.messages import Outputs, ResetPrefixCache, Shutdown, Submit
from maxserve.core.runtime.worker import PAUSE, REST, Loop


class Channel:
    """Hands out one of `rounds` at each look, then a Shutdown."""

    def __init__(self, *rounds: list[Any]) -> None:
        self._rounds = list(rounds)
        self.timeouts: list[float | None] = []
        self.sent: list[Any] = []

    def receive(self, timeout: float | None) -> list[Any]:
        self.timeouts.append(timeout)
        return self._rounds.pop(0) if self._rounds else [Shutdown()]

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def wake(self) -> None: ...


class Engine:
    """Is busy or not, and counts its steps."""

    info = None

    def __init__(self, *, empty_steps: bool, pause: float | None) -> None:
        self.empty_steps = empty_steps
        self.pause = pause
        self.busy = pause is not None
        self.steps = 0

    def step(self) -> list[Any]:
        self.steps += 1
        return []

    def stats(self) -> Any:
        from maxserve.core.interfaces.cache import CacheSizes
        from maxserve.core.interfaces.observer import StepStats

        return StepStats(time=0.0, running=0, waiting=0, cache=CacheSizes(total=0, free=0, cached=0, owned=0))

    def reset_prefix_cache(self) -> int:
        return 0

    def serve_grammars(self, wake: Any) -> None: ...


@pytest.mark.parametrize(
    ("empty_steps", "pause", "asked"),
    [
        (False, None, None),  # nothing to do: until a message comes
        (False, 0.0, 0.0),  # a step waits: only a look
        (False, 30.0, 30.0),  # the policy wants to be asked again then
        (True, None, PAUSE),  # others may wait for this device's part of an empty step
        (True, 0.0, 0.0),
        (True, 30.0, PAUSE),
        (True, PAUSE / 2, PAUSE / 2),
    ],
)
def test_sleep(empty_steps: bool, pause: float | None, asked: float | None) -> None:
    channel, engine = Channel([], []), Engine(empty_steps=empty_steps, pause=pause)
    Loop(engine, channel).run()  # type: ignore[arg-type]
    assert channel.timeouts == [asked] * 3
    assert engine.steps == (2 if empty_steps or pause is not None else 0)


def test_steps_of_nobody_are_not_reported() -> None:
    channel = Channel([], [ResetPrefixCache()], [])
    engine = Engine(empty_steps=True, pause=None)
    Loop(engine, channel).run()  # type: ignore[arg-type]
    assert engine.steps == 3
    assert [type(message) for message in channel.sent] == [Outputs]


@pytest.mark.parametrize(
    ("rounds", "asked", "given"),
    [
        ([[], [], [ResetPrefixCache()], []], [0.0, REST, None, None, None], [2]),  # once, when nothing came for a while
        ([[], [ResetPrefixCache()], [], []], [0.0, REST, REST, None, None], [3]),  # a message puts it off
    ],
)
def test_memory_goes_back_when_work_has_rested(
    rounds: list[list[Any]], asked: list[float | None], given: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, engine, times = Channel(*rounds), Engine(empty_steps=False, pause=0.0), list[int]()

    def step() -> list[Any]:
        engine.busy, engine.pause = False, None
        return []

    monkeypatch.setattr(engine, "step", step)
    monkeypatch.setattr(worker, "give_back", lambda: times.append(len(channel.timeouts)))
    Loop(engine, channel).run()  # type: ignore[arg-type]
    assert channel.timeouts == asked
    assert times == given


def test_an_engine_gives_back_what_it_holds_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Holding(Engine):
        def step(self) -> list[Any]:
            self.busy, self.pause = False, None
            return []

        def give_back(self) -> None:
            given.append("engine")

    given = list[str]()
    monkeypatch.setattr(worker, "give_back", lambda: given.append("heap"))
    Loop(Holding(empty_steps=False, pause=0.0), Channel([], [], [])).run()  # type: ignore[arg-type]
    assert given == ["engine", "heap"]


def test_an_exception_while_a_request_is_admitted_ends_that_request(caplog: pytest.LogCaptureFixture) -> None:
    class Admitting(Engine):
        def add(self, request: Request) -> None:
            if request.id == "bad":
                raise ZeroDivisionError("a plugin's")

    requests = tuple(Request(id=id, prompt=(1,), params=SamplingParams()) for id in ("one", "bad", "two"))
    channel = Channel([Submit(requests=requests)], [])
    Loop(Admitting(empty_steps=False, pause=None), channel).run()  # type: ignore[arg-type]
    (refusal,) = channel.sent[0].rejected
    assert (refusal.id, refusal.status) == ("bad", 500)
    assert refusal.message == "the request could not be admitted: ZeroDivisionError: a plugin's"
    assert "request bad could not be admitted" in caplog.text
