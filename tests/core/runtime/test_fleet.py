from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.errors import EngineError, UsageError
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.runtime.fleet import Fleet
from maxserve.core.runtime.observing import Observers

PAGES = CacheSizes(total=10, free=4, cached=3, owned=3, host_hits=2)
INFO = ModelInfo(
    name="m",
    path="/m",
    architecture="A",
    max_length=100,
    vocab_size=9,
    eos_token_ids=(),
    dtype="float32",
    device="cpu",
    parameters=1,
    max_batch_size=4,
    created=0,
)


def stats(**fields: Any) -> StepStats:
    return StepStats(**{"time": 1.0, "running": 1, "waiting": 2, "cache": PAGES, "steps": 5, "page_size": 64, **fields})


class Client:
    def __init__(self) -> None:
        self.ready = False
        self.open = 2
        self.stopped = False
        self.adapters = SimpleNamespace(left_out={})
        self.on_stats: Any = None

    def stop(self) -> None:
        self.stopped = True


class Supervisor:
    """One whose life the test tells."""

    def __init__(self) -> None:
        self.client = Client()
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self.watcher: Any = None
        self.stopped = False

    async def run(self, watcher: Any) -> None:
        self.watcher = watcher
        event = await self.events.get()
        if event is not None:
            raise event

    def ready(self, info: ModelInfo = INFO) -> None:
        self.client.ready = True
        self.watcher.on_ready(info)

    def die(self) -> None:
        self.client.ready = False
        self.watcher.on_death("killed")

    def stop(self) -> None:
        self.stopped = True
        self.events.put_nowait(None)

    def kill(self) -> None: ...


class Watcher:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_progress(self, phase: str, fraction: float | None) -> None:
        self.told.append(phase)

    def on_ready(self, info: ModelInfo) -> None:
        self.told.append(info)

    def on_death(self, message: str) -> None:
        self.told.append(message)


async def started(size: int = 2) -> tuple[Fleet, list[Supervisor], Watcher, asyncio.Future[None]]:
    supervisors = [Supervisor() for _ in range(size)]
    fleet, watcher = Fleet(supervisors), Watcher()  # type: ignore[arg-type]
    running = asyncio.ensure_future(fleet.run(watcher))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return fleet, supervisors, watcher, running


def test_a_server_is_ready_when_all_replicas_are_and_serves_while_one_is() -> None:
    async def main() -> None:
        fleet, (one, other), watcher, running = await started()
        one.watcher.on_progress("loading", 0.5)
        one.ready()
        other.watcher.on_progress("warming up", None)  # who waits is told of the first one only
        assert (watcher.told, fleet.ready, fleet.open) == (["loading"], True, 4)
        other.ready(replace(INFO, max_length=90, max_batch_size=3))
        together = replace(INFO, max_length=90, max_batch_size=7)
        assert watcher.told.pop() == together
        one.die()
        one.ready()
        assert watcher.told == ["loading"]
        one.die()
        other.die()
        other.ready(replace(INFO, max_length=80))
        assert watcher.told == ["loading", "killed", replace(INFO, max_length=80)]
        fleet.end_requests()
        assert one.client.stopped
        assert other.client.stopped
        fleet.stop()
        await running

    asyncio.run(main())


def test_one_replica_is_told_as_it_is() -> None:
    async def main() -> None:
        fleet, (one,), watcher, running = await started(1)
        heard: list[StepStats] = []
        fleet.observers = Observers([SimpleNamespace(on_step=heard.append, on_request=None)])  # type: ignore[list-item]
        one.ready()
        one.client.on_stats(stats())
        assert (watcher.told, heard) == ([INFO], [stats()])
        assert watcher.told[0] is INFO
        fleet.stop()
        await running

    asyncio.run(main())


def test_observers_are_told_what_replicas_say_together() -> None:
    async def main() -> None:
        fleet, (one, other), _, running = await started()
        told: list[StepStats] = []
        fleet.observers = Observers([SimpleNamespace(on_step=told.append, on_request=None)])  # type: ignore[list-item]
        one.client.on_stats(stats(running=2))  # as it is, before a balancer adds up
        fleet.together = lambda number, stats: replace(stats, running=10 * stats.running + number)
        one.client.on_stats(stats(running=3))
        other.client.on_stats(stats(running=4))
        assert [each.running for each in told] == [2, 30, 41]
        fleet.stop()
        await running

    asyncio.run(main())


@pytest.mark.parametrize("error", [UsageError("no such device"), EngineError("it does not fit")])
def test_a_replica_that_cannot_start_ends_the_start(error: Exception) -> None:
    async def main() -> None:
        _, (one, other), _, running = await started()
        one.ready()
        other.events.put_nowait(error)
        with pytest.raises(type(error), match=str(error)):
            await running
        assert one.stopped

    asyncio.run(main())


def test_a_replica_that_is_given_up_leaves_the_others_serving(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        _, (one, other), _, running = await started()
        one.ready()
        other.ready()
        other.die()
        other.events.put_nowait(EngineError("three times in a row"))
        await asyncio.sleep(0.01)
        assert not running.done()
        assert "replica 1 is given up, and the others serve on: three times in a row" in caplog.text
        one.die()
        one.events.put_nowait(EngineError("so does this one"))
        with pytest.raises(EngineError, match="so does this one"):
            await running

    asyncio.run(main())


def test_statistics_that_a_balancer_fails_at_are_those_of_the_replica(caplog: pytest.LogCaptureFixture) -> None:
    """They come from the loop that delivers outputs, which must not end."""
    supervisor = Supervisor()
    fleet = Fleet([supervisor])  # type: ignore[list-item]
    heard: list[StepStats] = []
    fleet.observers = Observers([SimpleNamespace(on_step=heard.append)])  # type: ignore[list-item]

    def together(number: int, stats: StepStats) -> StepStats:
        raise ZeroDivisionError("a stranger's")

    fleet.together = together
    for running in (1, 2):
        supervisor.client.on_stats(stats(running=running))
    assert [each.running for each in heard] == [1, 2]
    assert [record.exc_info is not None for record in caplog.records] == [True]
