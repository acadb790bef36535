"""The supervisor of a worker. Starts it, tells what becomes of it, starts it anew when it dies, and ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec

from maxserve.core.interfaces.errors import EngineError, MaxserveError, PluginError, UsageError, WorkerDied
from maxserve.core.runtime.lifeline import encode_start
from maxserve.core.runtime.messages import (
    Failed,
    FromWorker,
    Heard,
    Hello,
    Outputs,
    Phase,
    ReadsAdapter,
    Ready,
    Shutdown,
    Start,
)
from maxserve.core.runtime.sockets import ApiChannel

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.executor import WorkerLauncher
    from maxserve.core.runtime.client import WorkerClient

log = logging.getLogger("maxserve.supervisor")

MAX_DEATHS = 3  # in a row, without a request served in between
FIRST_DELAY = 0.5  # seconds before a restart; doubles with each death in a row
LAST_GOODBYE = 5.0  # seconds a worker has to end by itself


class Watcher(Protocol):
    """Hears what becomes of the worker, in the event loop; must return at once."""

    def on_progress(self, phase: str, fraction: float | None) -> None: ...
    def on_ready(self, info: ModelInfo) -> None: ...
    def on_death(self, message: str) -> None: ...


class Worker:
    """A worker process with its channel, and what it reported of itself."""

    def __init__(self, start: Start, launcher: WorkerLauncher) -> None:
        self.channel = ApiChannel(start.endpoints)
        self.ready = False
        self.failure: MaxserveError | None = None
        try:
            self.child = launcher.launch(encode_start(start))
        except OSError:
            self.channel.close()
            raise

    def give_up(self, failure: MaxserveError) -> None:
        """Ends the child; `failure` says why it was no use."""
        self.failure = failure
        self.child.cut()

    def kill(self) -> None:
        self.child.kill()
        self.channel.close()


class Supervisor:
    """Keeps one worker running as `start` describes it, with plugins of the given fingerprint.

    `spawn` may come before the event loop, which owns the rest.
    """

    def __init__(self, start: Start, fingerprint: str, client: WorkerClient, launcher: WorkerLauncher) -> None:
        self._start = start
        self._launcher = launcher
        self._fingerprint = fingerprint
        self._client = client
        self._worker: Worker | None = None
        self._deaths = 0
        self._served = 0
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process id of the worker there is."""
        return self._worker.child.pid if self._worker is not None else None

    def spawn(self) -> None:
        """Starts a worker; it loads while the caller does other things."""
        assert self._worker is None, "there is a worker already"
        self._worker = Worker(
            msgspec.structs.replace(self._start, changes=self._client.adapters.for_a_new_worker), self._launcher
        )

    async def run(self, watcher: Watcher) -> None:
        """Returns after `stop`. UsageError when no worker can ever start, EngineError when they keep dying."""
        while not self._stopping.is_set():
            if self._worker is None:
                self.spawn()
            assert self._worker is not None
            await self._attend(self._worker, watcher)
            if not self._stopping.is_set():
                await self._pause()

    def stop(self) -> None:
        """Ends the worker in good order; `run` returns when it is gone."""
        self._stopping.set()

    def kill(self) -> None:
        """Ends the worker at once, whatever happens; harmless when there is none."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None

    # --- a worker's life ----------------------------------------------------------------------------------------

    async def _attend(self, worker: Worker, watcher: Watcher) -> None:
        worker.channel.listen(self._listener(worker, watcher))
        exited = asyncio.ensure_future(worker.child.exited())
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((exited, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not exited.done() and self._worker is worker:
                await self._dismiss(worker, exited)
        finally:
            stopping.cancel()
            exited.cancel()
            self.kill()
        self._bury(worker, watcher, exited.result())

    async def _dismiss(self, worker: Worker, exited: asyncio.Future[int]) -> None:
        if worker.ready:
            worker.channel.send(Shutdown())
        else:
            worker.child.cut()
        done, _ = await asyncio.wait((exited,), timeout=LAST_GOODBYE)
        if not done:
            log.warning("the worker did not end within %g s and is killed", LAST_GOODBYE)
            worker.child.kill()
            await exited

    def _bury(self, worker: Worker, watcher: Watcher, status: int) -> None:
        message = describe_exit(worker.child.pid, status)
        if self._stopping.is_set():
            self._client.stop()
            return
        if self._client.worker_died(WorkerDied(message)):
            self._deaths = 0  # the next worker has not what this one died of
        if worker.failure is not None and not worker.ready:
            raise worker.failure
        watcher.on_death(str(worker.failure or message))
        self._count_death(str(worker.failure or message))

    def _count_death(self, message: str) -> None:
        if self._client.served > self._served:
            self._deaths = 0
        self._served = self._client.served
        self._deaths += 1
        if self._deaths >= MAX_DEATHS:
            raise EngineError(f"{message}; that is {self._deaths} times in a row without a request served, giving up")
        log.error("%s; starting it again in %g s", message, self._delay)

    @property
    def _delay(self) -> float:
        return FIRST_DELAY * float(2 ** (self._deaths - 1))

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._delay)

    # --- what it says -------------------------------------------------------------------------------------------

    def _listener(self, worker: Worker, watcher: Watcher) -> Callable[[FromWorker], None]:
        def listen(message: FromWorker) -> None:
            if worker.failure is not None:
                return  # it was given up: what it sent before it heard of that counts no more
            match message:
                case Outputs():
                    self._client.deliver(message)
                case Phase(text=text, fraction=fraction):
                    watcher.on_progress(text, fraction)
                case Hello():
                    self._greet(worker, message)
                case ReadsAdapter(name=name):
                    self._client.adapters.reads_again(name)
                    worker.channel.send(Heard())
                case Ready(info=info):
                    worker.ready = True
                    self._client.attach(worker.channel, info.max_batch_size, info.adapters)
                    watcher.on_ready(info)
                case Failed(message=text, kind=kind):
                    worker.give_up(UsageError(text) if kind == "usage" else EngineError(text))

        return listen

    def _greet(self, worker: Worker, hello: Hello) -> None:
        if hello.fingerprint == self._fingerprint:
            worker.channel.connect()
            return
        worker.give_up(
            PluginError(
                f"the worker's plugins (fingerprint {hello.fingerprint}) are not those of the server "
                f"({self._fingerprint}); did an installation change meanwhile?"
            )
        )


def describe_exit(pid: int, status: int) -> str:
    """Why a worker ended, in words for an operator."""
    if status >= 0:
        return f"the worker (pid {pid}) ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    text = f"the worker (pid {pid}) was ended by {name}"
    if -status == signal.SIGKILL:
        text += (
            "; if no user sent it, the system ran out of memory: "
            "lower --device-memory-utilization, --max-batch-size or --max-length"
        )
    return text
