"""Constraints tried out where a crash or a runaway costs no request anything: the API process's side of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import IO, Protocol

import msgspec

from maxserve.interfaces.errors import MaxserveError, QueueFullError, RequestError
from maxserve.plugins.api.constraints.messages import Begin, Frames, Message, Outcome, Signal, Try, packed

log = logging.getLogger("maxserve.server")

COMMAND = (sys.executable, "-P", "-m", "maxserve.plugins.api.constraints.process")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # it forks
QUICK = 2  # constraints that are compiled at once; most take milliseconds
SLICE = 0.3  # seconds after which a constraint is slow, and another one takes its place
SLOW = 2  # slow constraints that go on at once
HELD = 4  # slow constraints that are stopped until it is their turn
MOST_WAITING = 256  # that have not begun


class TriesConstraints(Protocol):
    """Compiles a constraint to find out whether it can be; a task that is cancelled stops it."""

    async def outcome(self, backend: str, kind: str, text: str) -> Outcome:
        """RequestError 429 or 503 when it cannot be found out now."""
        ...

    def close(self) -> None: ...


class Sandbox:
    """Tries constraints in a process of their own each. It belongs to one event loop.

    Two lanes keep slow constraints from holding up the others: after SLICE seconds one leaves its place to the next and
    goes on among the slow ones, which take turns. `begin` gives the first message and takes its time; it is called in
    a thread, when `start` is or the first constraint comes.
    """

    def __init__(self, begin: Callable[[], Begin]) -> None:
        self._begin = begin
        self._process: _Process | None = None
        self._starting: asyncio.Future[_Process] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="maxserve-constraints")
        self._jobs: dict[int, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._quick: set[_Job] = set()
        self._slow: set[_Job] = set()
        self._held: deque[_Job] = deque()
        self._ids = 0
        self._closed = False

    def start(self) -> None:
        """Starts the process, for constraints to come; returns at once."""
        asyncio.ensure_future(self._running()).add_done_callback(_forget)

    async def outcome(self, backend: str, kind: str, text: str) -> Outcome:
        process = await self._running()
        if len(self._waiting) >= MOST_WAITING:
            raise QueueFullError(f"{MOST_WAITING} constraints wait to be compiled; try again")
        self._ids += 1
        job = _Job(Try(id=self._ids, backend=backend, kind=kind, text=text), process)
        self._jobs[job.id] = job
        self._waiting.append(job)
        self._advance()
        try:
            return await job.done
        finally:  # also when no request waits any more
            self._leave(job)

    def close(self) -> None:
        """Ends the process; what is under way there is refused."""
        self._closed = True
        if self._process is not None:
            self._process.end()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- lanes --------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Begins what there is room for."""
        loop = asyncio.get_running_loop()
        while self._waiting and len(self._quick) < QUICK:
            job = self._waiting.popleft()
            self._quick.add(job)
            job.timer = loop.call_later(SLICE, self._turn_is_over, job)
            self._send(job, job.message)
        while self._held and len(self._slow) < SLOW:
            job = self._held.popleft()
            self._slow.add(job)
            job.timer = loop.call_later(SLICE, self._turn_is_over, job)
            self._send(job, Signal(id=job.id, signal=signal.SIGCONT))

    def _turn_is_over(self, job: _Job) -> None:
        """Another one takes its place, and it goes on among the slow ones when it is its turn again."""
        if job in self._slow and not self._held:
            job.timer = asyncio.get_running_loop().call_later(SLICE, self._turn_is_over, job)
            return
        if job in self._quick and len(self._held) >= HELD:
            job.fail(QueueFullError("too many constraints that take long are compiled; try again, or make it smaller"))
            self._leave(job)
            return
        self._quick.discard(job)
        self._slow.discard(job)
        self._send(job, Signal(id=job.id, signal=signal.SIGSTOP))  # which makes it yield to all others as well
        self._held.append(job)
        self._advance()

    def _leave(self, job: _Job) -> None:
        """Ends a job's process, unless it ended by itself, and lets others in."""
        if self._jobs.pop(job.id, None) is None:
            return
        if job.timer is not None:
            job.timer.cancel()
            if not job.answered:
                self._send(job, Signal(id=job.id, signal=signal.SIGKILL))
        for lane in (self._quick, self._slow):
            lane.discard(job)
        for line in (self._waiting, self._held):
            with suppress(ValueError):
                line.remove(job)
        self._advance()

    def _send(self, job: _Job, message: Message) -> None:
        with suppress(RuntimeError):  # closed: no request waits
            self._thread.submit(job.process.write, message)

    # --- the process --------------------------------------------------------------------------------------------

    async def _running(self) -> _Process:
        if self._process is not None and self._process.alive:
            return self._process
        if self._closed:
            raise RequestError("the server is closing", status=503)
        if self._starting is None:
            loop = asyncio.get_running_loop()
            self._starting = loop.run_in_executor(self._thread, self._started, loop)
        try:
            self._process = process = await asyncio.shield(self._starting)
        except MaxserveError as error:  # the model has no texts that could be followed
            raise RequestError(str(error), code="unsupported_parameter") from error
        finally:
            if self._starting is not None and self._starting.done():
                self._starting = None
        return process

    def _started(self, loop: asyncio.AbstractEventLoop) -> _Process:
        first = self._begin()

        def hear(outcome: Outcome | None, process: _Process) -> None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._hear, outcome, process)

        process = _Process(hear)
        process.write(first)
        return process

    def _hear(self, outcome: Outcome | None, process: _Process) -> None:
        if outcome is not None:
            if (job := self._jobs.get(outcome.id)) is not None:
                job.tell(outcome)
                self._leave(job)
            return
        for job in [job for job in self._jobs.values() if job.process is process]:
            job.answered = True
            job.fail(RequestError("what compiles constraints ended unexpectedly; try again", status=503))
            self._leave(job)


class _Job:
    """A constraint on its way."""

    def __init__(self, message: Try, process: _Process) -> None:
        self.id = message.id
        self.message = message
        self.process = process
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.timer: asyncio.TimerHandle | None = None  # set when it began
        self.answered = False

    def tell(self, outcome: Outcome) -> None:
        self.answered = True
        if not self.done.done():
            self.done.set_result(outcome)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class _Process:
    """The process that forks for constraints. `hear` is called, from a thread, for each outcome and when it ended."""

    def __init__(self, hear: Callable[[Outcome | None, _Process], None]) -> None:
        self._hear = hear
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **ONE_THREAD}
        )
        self.alive = True
        threading.Thread(target=self._read, name="maxserve-constraints-read", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def write(self, message: Message) -> None:
        with suppress(BrokenPipeError, ValueError):  # it ended, which is reported otherwise
            self._pipe(self._process.stdin).write(packed(message))
            self._pipe(self._process.stdin).flush()

    def end(self) -> None:
        self.alive = False
        self._process.kill()
        self._close()
        self._process.wait()

    def _close(self) -> None:
        with suppress(BrokenPipeError):
            self._pipe(self._process.stdin).close()

    def _read(self) -> None:
        frames, pipe = Frames(), self._pipe(self._process.stdout)
        while data := os.read(pipe.fileno(), 1 << 16):
            for body in frames.feed(data):
                self._hear(msgspec.msgpack.decode(body, type=Outcome), self)
        pipe.close()
        self._close()
        expected = not self.alive
        self.alive = False
        status = self._process.wait()
        if not expected:
            log.error("the process that compiles constraints ended with status %d; another one is started", status)
        self._hear(None, self)

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


def _forget(started: asyncio.Future[_Process]) -> None:
    """The answer to requests for a constraint: why there is none."""
    if not started.cancelled():
        started.exception()
