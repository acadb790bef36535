"""Checks of executors; and a second executor, whose workers run in threads of the server's process.

class TestAcme(ExecutorChecks):
    executor = "acme"
"""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import IO, Any, ClassVar

import zmq

from maxserve.core.config import Settings
from maxserve.core.interfaces.executor import Endpoints, Executor, ExecutorContext, WorkerLauncher, WorkerProcess
from maxserve.core.runtime.lifeline import read_start
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.testing.resolve import load, resolve

__all__ = ["ExecutorChecks", "ThreadLauncher", "ThreadWorker"]

SECONDS = 30
# A worker for the checks: it does what the first line on its standard input says, then waits until that closes.
WORKER = """
import os, sys, time
word = sys.stdin.buffer.readline().decode().strip()
if word == "environ":
    sys.exit(7 if os.environ.get("MAXSERVE_TESTED") == "yes" else 8)
if word == "say":
    print("a line of the worker", file=sys.stderr, flush=True)
    sys.exit(5)
if word == "deaf":
    time.sleep(600)
sys.stdin.buffer.read()
sys.exit(3)
"""


class ExecutorChecks:
    """Subclass it and name a registered `executor`, or give the `component` itself.

    The worker is a small program of Python. `sections` are the plugin's settings, by schema.
    """

    executor: ClassVar[str] = ""
    component: ClassVar[Executor | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}

    def launcher(self, relay: Callable[[IO[bytes]], None] | None = None, program: str = "") -> WorkerLauncher:
        """A fresh launcher of the small program, run by this Python or another `program`."""
        build = load(resolve(Executor, self.executor, self.component).build)
        launcher: WorkerLauncher = build(
            ExecutorContext(
                command=(program or sys.executable, "-c", WORKER),
                environ={"MAXSERVE_TESTED": "yes"},
                relay=relay,
                sections=self.sections,
            )
        )
        return launcher

    def status(self, word: str, then: Callable[[WorkerProcess], None], launcher: WorkerLauncher | None = None) -> int:
        """Starts a worker, does something to it, and returns its exit status."""
        worker = (launcher or self.launcher()).launch(word.encode() + b"\n")
        try:
            assert worker.pid > 0
            then(worker)
            return asyncio.run(within(worker.exited()))
        finally:
            worker.kill()

    def test_the_worker_gets_its_start_and_its_variables(self) -> None:
        assert self.status("environ", lambda worker: None) == 7

    def test_the_worker_runs_until_its_lifeline_is_cut(self) -> None:
        async def waiting(worker: WorkerProcess) -> bool:
            exited = asyncio.ensure_future(worker.exited())
            done, _ = await asyncio.wait({exited}, timeout=1.0)
            exited.cancel()
            return not done

        def then(worker: WorkerProcess) -> None:
            assert asyncio.run(waiting(worker)), "the worker's standard input closed by itself"
            worker.cut()
            worker.cut()

        assert self.status("wait", then) == 3

    def test_a_worker_that_is_deaf_is_killed(self) -> None:
        def then(worker: WorkerProcess) -> None:
            worker.kill()
            worker.kill()

        assert self.status("deaf", then) != 0

    def test_there_are_addresses_to_talk_at(self) -> None:
        """Both can be bound, and two servers beside each other have different ones."""
        with self.launcher().endpoints() as one, self.launcher().endpoints() as other:
            addresses = {one.requests, one.outputs, other.requests, other.outputs}
            assert len(addresses) == 4, "two servers have an address in common"
            with zmq.Context() as context:
                for address in addresses:
                    with context.socket(zmq.PULL) as bound:
                        bound.setsockopt(zmq.IPV6, "[" in address)
                        bound.bind(address)

    def test_a_second_worker_can_be_started(self) -> None:
        launcher = self.launcher()
        for _ in range(2):
            assert self.status("environ", lambda worker: None, launcher) == 7

    def test_what_the_worker_writes_goes_to_the_relay(self) -> None:
        heard: list[bytes] = []

        def relay(stream: IO[bytes]) -> None:
            threads.append(threading.Thread(target=read, args=(stream,)))
            threads[-1].start()

        def read(stream: IO[bytes]) -> None:
            with stream:
                heard.append(stream.read())

        threads: list[threading.Thread] = []
        assert self.status("say", lambda worker: None, self.launcher(relay)) == 5
        for thread in threads:
            thread.join(SECONDS)
        assert b"a line of the worker" in b"".join(heard)

    def test_what_cannot_be_started_is_an_error(self) -> None:
        try:
            worker = self.launcher(program="/no/such/program").launch(b"wait\n")
        except OSError:
            return
        worker.kill()
        raise AssertionError("a program that does not exist was started")


async def within(awaitable: Awaitable[int]) -> int:
    async with asyncio.timeout(SECONDS):
        return await awaitable


class ThreadLauncher:
    """Starts workers in threads, for tests; nothing that needs a process of its own, such as a signal, is there."""

    def __init__(self, context: object = None) -> None:
        pass

    def endpoints(self) -> AbstractContextManager[Endpoints]:
        return endpoints(None)

    def launch(self, start: bytes) -> ThreadWorker:
        return ThreadWorker(start)


class ThreadWorker:
    """One worker. It ends when it is asked to; one that failed ends when it is cut off."""

    def __init__(self, start: bytes) -> None:
        self.pid = os.getpid()
        self._cut = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(start,), name="worker", daemon=True)
        self._thread.start()

    def _work(self, start: bytes) -> None:
        from maxserve.core.runtime.worker import work

        message = read_start(io.BytesIO(start))
        work(message, Settings.model_validate_json(message.settings), self._cut.wait)

    async def exited(self) -> int:
        """0, once the thread has ended."""
        while self._thread.is_alive():
            await asyncio.sleep(0.01)
        return 0

    def cut(self) -> None:
        self._cut.set()

    def kill(self) -> None:
        self.cut()
        self._thread.join(timeout=10)
