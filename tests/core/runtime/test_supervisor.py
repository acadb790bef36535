from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.errors import EngineError, PluginError, RequestError, UsageError, WorkerDied
from maxserve.core.interfaces.executor import Endpoints, WorkerLauncher
from maxserve.core.interfaces.request import AdapterChange, Request, SamplingParams
from maxserve.core.runtime import supervisor as module
from maxserve.core.runtime.client import WorkerClient
from maxserve.core.runtime.executors import executor_context
from maxserve.core.runtime.messages import Start
from maxserve.core.runtime.supervisor import Supervisor
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.plugins.executors.local import LocalLauncher
from maxserve.testing.executor import ThreadLauncher

STUB = Path(__file__).parent / "stub"
SLOW, FATAL, RAISING = 1, 2, 4


class House:
    """A supervised worker, its client, and what the supervisor told."""

    def __init__(self, start: Start, fingerprint: str, launcher: WorkerLauncher | None = None) -> None:
        self.client = WorkerClient()
        launcher = launcher or LocalLauncher(executor_context())
        self.supervisor = Supervisor(start, fingerprint, self.client, launcher)
        self.said: list[str] = []
        self._changed = asyncio.Event()

    def _say(self, what: str) -> None:
        self.said.append(what)
        self._changed.set()

    def on_progress(self, phase: str, fraction: float | None) -> None:
        self._say(f"{phase} {fraction}")

    def on_ready(self, info: ModelInfo) -> None:
        self._say(f"ready {info.name}")

    def on_death(self, message: str) -> None:
        self._say(f"death: {message}")

    async def heard(self, start: str, count: int = 1) -> None:
        """Returns when that many lines begin so."""
        async with asyncio.timeout(30):
            while sum(line.startswith(start) for line in self.said) < count:
                self._changed.clear()
                await self._changed.wait()

    async def ask(self, id: str, kind: int = 0, max_tokens: int | None = 3) -> list[int]:
        request = Request(id=id, prompt=(kind,), params=SamplingParams(max_tokens=max_tokens))
        return [token async for output in self.client.generate(request) for token in output.tokens]


@asynccontextmanager
async def running(house: House) -> AsyncIterator[asyncio.Future[None]]:
    """A supervisor at work, which is stopped in the end unless it ended by itself."""
    supervised = asyncio.ensure_future(house.supervisor.run(house))
    try:
        yield supervised
    finally:
        house.supervisor.stop()
        with suppress(EngineError, UsageError):
            async with asyncio.timeout(20):
                await supervised
        house.supervisor.kill()


@pytest.fixture
def addresses() -> Iterator[Endpoints]:
    with endpoints(None) as pair:
        yield pair


@pytest.fixture
def house(addresses: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Callable[..., House]:
    monkeypatch.syspath_prepend(str(STUB))
    monkeypatch.setattr(module, "FIRST_DELAY", 0.05)
    import starts  # type: ignore[import-not-found]

    def build(engine: str = "build", fingerprint: str | None = None, launcher: WorkerLauncher | None = None) -> House:
        return House(starts.start_of(addresses, engine), fingerprint or starts.fingerprint(), launcher)

    return build


async def exhaust(outputs: AsyncIterator[Any]) -> None:
    async for _ in outputs:
        pass


def play(scene: Callable[[], Awaitable[Any]]) -> None:
    async def main() -> None:
        await scene()

    asyncio.run(main())


def test_worker_comes_up_serves_and_goes_when_told(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        it.supervisor.spawn()
        async with running(it) as supervised:
            await it.heard("ready")
            assert it.said == ["counting None", "counting 0.5", "ready counter"]
            assert it.client.ready
            assert await it.ask("a") == [0, 1, 2]
            pid = it.supervisor.pid
            assert pid is not None
            it.supervisor.stop()
            await supervised
            assert not psutil.pid_exists(pid)
            assert not it.client.ready

    play(scene)


def test_killed_worker_fails_its_requests_at_once_and_the_next_one_serves(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it):
            await it.heard("ready")
            first = it.supervisor.pid
            assert first is not None
            outputs = it.client.generate(Request(id="a", prompt=(SLOW,)))
            assert (await anext(outputs)).tokens == (0,)
            waiting = asyncio.ensure_future(it.ask("b", SLOW, None))
            os.kill(first, signal.SIGKILL)
            rest = asyncio.ensure_future(exhaust(outputs))
            async with asyncio.timeout(5):
                await asyncio.wait((rest,))
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await rest
            with pytest.raises(WorkerDied, match="SIGKILL"):
                await waiting
            await it.heard("death")
            assert not it.client.ready
            await it.heard("ready", 2)
            assert it.supervisor.pid != first
            assert await it.ask("c") == [0, 1, 2]

    play(scene)


def test_three_deaths_in_a_row_end_it(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it) as supervised:
            for n in range(3):
                await it.heard("ready", n + 1)
                with pytest.raises(WorkerDied):
                    await it.ask(str(n), FATAL)
            with pytest.raises(EngineError, match=r"SIGKILL.*3 times in a row"):
                await supervised
            assert sum(line.startswith("ready") for line in it.said) == 3

    play(scene)


def test_served_requests_forgive_earlier_deaths(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it) as supervised:
            for n in range(3):
                await it.heard("ready", n + 1)
                assert await it.ask(f"good {n}") == [0, 1, 2]
                with pytest.raises(WorkerDied):
                    await it.ask(f"fatal {n}", FATAL)
            await it.heard("ready", 4)
            assert not supervised.done()

    play(scene)


def test_worker_that_dies_while_it_loads_is_tried_three_times(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house("build_dying")
        async with running(it) as supervised:
            with pytest.raises(EngineError, match="exit status 7; that is 3 times"):
                await supervised

    play(scene)


def test_an_adapter_that_ends_workers_at_once_is_known_for_it(house: Callable[..., House]) -> None:
    """However soon they die: two die of each, more than in a row without a reason, and the third serves."""

    async def scene() -> None:
        it = house("build_with_deadly_adapters")
        for name in ("one", "two"):
            change = AdapterChange(id=name, action="load", name=name, source=f"/{name}")
            it.client.adapters.made(it.client.adapters.begin(change), change)
            it.client.adapters.answered(name)
        async with running(it):
            await it.heard("ready")
            assert sum(line.startswith("death") for line in it.said) == 4
            assert set(it.client.adapters.left_out) == {"one", "two"}
            assert await it.ask("a") == [0, 1, 2]

    play(scene)


def test_what_the_operator_got_wrong_is_not_tried_again(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house("build_unfit")
        async with running(it) as supervised:
            with pytest.raises(UsageError, match="does not fit"):
                await supervised
        assert it.said == []

    play(scene)


def test_start_that_fails_with_a_reason_is_not_tried_again(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house("build_broken")
        async with running(it) as supervised:
            with pytest.raises(EngineError, match="ZeroDivisionError: a bug"):
                await supervised
        assert it.said == []

    play(scene)


def test_engine_that_breaks_while_it_serves_is_started_anew(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it):
            await it.heard("ready")
            with pytest.raises(WorkerDied):
                await it.ask("r", RAISING)
            await it.heard("death: RuntimeError: the engine broke")
            await it.heard("ready", 2)

    play(scene)


def test_worker_with_other_plugins_stops_the_start(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house(fingerprint="not this one")
        async with running(it) as supervised:
            with pytest.raises(PluginError, match="not this one"):
                await supervised
        assert not it.client.ready

    play(scene)


def test_worker_with_other_plugins_is_not_heard_further(house: Callable[..., House]) -> None:
    """All that it said until then may have come at once."""

    async def scene() -> None:
        it = house(fingerprint="not this one")
        it.supervisor.spawn()
        time.sleep(1.5)  # the worker says that it is ready, and the channel has no listener yet
        async with running(it) as supervised:
            with pytest.raises(PluginError, match="not this one"):
                await supervised
        assert "ready counter" not in it.said

    play(scene)


def test_stopping_while_the_worker_loads(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house("build_never")
        async with running(it) as supervised:
            await it.heard("waiting for ever")
            pid = it.supervisor.pid
            assert pid is not None
            it.supervisor.stop()
            async with asyncio.timeout(5):
                await supervised
            assert not psutil.pid_exists(pid)

    play(scene)


def test_stopping_fails_what_still_runs(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it) as supervised:
            await it.heard("ready")
            waiting = asyncio.ensure_future(it.ask("a", SLOW, None))
            await asyncio.sleep(0.05)
            it.supervisor.stop()
            await supervised
            with pytest.raises(RequestError, match="stopping") as caught:
                await waiting
            assert caught.value.status == 503

    play(scene)


def test_killing_ends_a_supervisor_that_is_stopping(house: Callable[..., House]) -> None:
    async def scene() -> None:
        it = house()
        async with running(it) as supervised:
            await it.heard("ready")
            it.supervisor.stop()
            it.supervisor.kill()
            async with asyncio.timeout(5):
                await supervised

    play(scene)


@pytest.mark.parametrize("engine", ["build", "build_broken"])
def test_another_executor_runs_the_worker_in_a_thread(house: Callable[..., House], engine: str) -> None:
    subject = house(engine, launcher=ThreadLauncher())

    async def scene() -> None:
        async with running(subject) as supervised:
            if engine == "build":
                await subject.heard("ready")
                assert subject.supervisor.pid == os.getpid()
                assert len(await subject.ask("a")) == 3
            else:
                with pytest.raises(EngineError, match="bug"):
                    await supervised

    play(scene)
