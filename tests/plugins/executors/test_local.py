from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from maxserve.core.interfaces.executor import Endpoints, ExecutorContext
from maxserve.core.runtime.executors import COMMAND, executor_context
from maxserve.core.runtime.lifeline import ORPHANED, encode_start
from maxserve.core.runtime.messages import FromWorker, Phase, Ready, Shutdown, Start
from maxserve.core.runtime.sockets import ApiChannel
from maxserve.core.runtime.supervisor import describe_exit
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.plugins.executors.local import LocalLauncher, LocalWorker

STUB = Path(__file__).parents[2] / "core" / "runtime" / "stub"


@pytest.fixture
def addresses() -> Iterator[Endpoints]:
    with endpoints(None) as pair:
        yield pair


@pytest.fixture
def start_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    monkeypatch.syspath_prepend(str(STUB))
    import starts  # type: ignore[import-not-found]

    return starts.start_of  # type: ignore[no-any-return]


async def heard(channel: ApiChannel, kind: type[FromWorker]) -> FromWorker:
    """The first message of that kind."""
    found: asyncio.Future[FromWorker] = asyncio.get_running_loop().create_future()

    def receive(message: FromWorker) -> None:
        if isinstance(message, kind) and not found.done():
            found.set_result(message)

    channel.listen(receive)
    async with asyncio.timeout(30):
        return await found


def run(
    start: Start,
    wait_for: type[FromWorker],
    end: Callable[[LocalWorker, ApiChannel], None],
    context: ExecutorContext | None = None,
) -> int:
    """Starts a worker, does `end` once it sent `wait_for`, and returns its exit status."""

    async def main() -> int:
        channel = ApiChannel(start.endpoints)
        child = LocalLauncher(context or executor_context()).launch(encode_start(start))
        try:
            await heard(channel, wait_for)
            exited = asyncio.ensure_future(child.exited())
            end(child, channel)
            async with asyncio.timeout(10):
                return await exited
        finally:
            child.kill()
            channel.close()

    return asyncio.run(main())


def test_worker_ends_at_once_when_its_lifeline_is_cut(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    assert run(start_of(addresses), Ready, lambda child, _: child.cut()) == ORPHANED


def test_worker_ends_at_once_even_while_it_loads(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    assert run(start_of(addresses, "build_never"), Phase, lambda child, _: child.cut()) == ORPHANED


def test_worker_behind_another_program_lives_as_long_as_its_lifeline(
    addresses: Endpoints, start_of: Callable[..., Start]
) -> None:
    """As behind ssh or srun: its parent is not the server."""
    between = (sys.executable, "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))", *COMMAND)
    context = dataclasses.replace(executor_context(), command=between)
    assert run(start_of(addresses), Ready, lambda child, _: child.cut(), context) == ORPHANED


def test_worker_ends_in_good_order_when_told(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    def end(child: LocalWorker, channel: ApiChannel) -> None:
        channel.connect()
        channel.send(Shutdown())

    assert run(start_of(addresses), Ready, end) == 0


def test_worker_leaves_signals_to_its_parent(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    def end(child: LocalWorker, channel: ApiChannel) -> None:
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.2)
        assert psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE
        os.kill(child.pid, signal.SIGKILL)

    assert run(start_of(addresses), Ready, end) == -signal.SIGKILL


def test_killing_twice_is_harmless(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    channel = ApiChannel(addresses)
    child = LocalLauncher(executor_context()).launch(encode_start(start_of(addresses, "build_never")))
    child.kill()
    child.kill()
    channel.close()
    assert not psutil.pid_exists(child.pid)


def test_worker_started_by_hand_says_who_starts_it() -> None:
    done = subprocess.run(COMMAND, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "max serve" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the other half of the lifeline is Linux's")
def test_worker_dies_with_a_parent_whose_pipe_somebody_else_holds(
    addresses: Endpoints, start_of: Callable[..., Start]
) -> None:
    start_of(addresses)  # puts the stub on the path
    code = (
        "import os, sys, time; import starts\n"
        "from maxserve.core.runtime.executors import executor_context\n"
        "from maxserve.core.runtime.lifeline import encode_start\n"
        "from maxserve.plugins.executors.local import LocalLauncher\n"
        "from maxserve.core.interfaces.executor import Endpoints\n"
        f"pair = Endpoints(requests={addresses.requests!r}, outputs={addresses.outputs!r})\n"
        "child = LocalLauncher(executor_context()).launch(encode_start(starts.start_of(pair)))\n"
        "if os.fork() == 0: time.sleep(60); os._exit(0)\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )

    async def ready() -> None:
        channel = ApiChannel(addresses)
        try:
            await heard(channel, Ready)
        finally:
            channel.close()

    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(STUB), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env) as parent:
        assert parent.stdout is not None
        worker = psutil.Process(int(parent.stdout.readline()))
        twin = next(p for p in psutil.Process(parent.pid).children() if p.pid != worker.pid)
        asyncio.run(ready())
        parent.kill()
        try:
            psutil.wait_procs([worker], timeout=10)
            assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
        finally:
            twin.kill()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, "exit status 1"),
        (-signal.SIGSEGV, "ended by SIGSEGV"),
        (-signal.SIGKILL, "ran out of memory"),
        (-63, "ended by signal 63"),
    ],
)
def test_ends_are_told_in_words(status: int, words: str) -> None:
    assert words in describe_exit(12, status)
    assert "pid 12" in describe_exit(12, status)


@pytest.mark.parametrize(("given", "found"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, start_of: Callable[..., Start], addresses: Endpoints, given: str | None, found: str
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    environments: list[str] = []

    def look(child: LocalWorker, channel: ApiChannel) -> None:
        environments.append(psutil.Process(child.pid).environ()["OMP_WAIT_POLICY"])
        child.cut()

    run(start_of(addresses), Ready, look)
    assert environments == [found]
