"""The supervisor of a worker. Starts it, tells what becomes of it, starts it anew when it dies, and ends it."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Collection
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
from maxserve.core.runtime.rank_addresses import follower_starts
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


class Process:
    """A process with its channel; `rank` is its number among those that share a model, None for one that has it."""

    def __init__(self, start: Start, launcher: WorkerLauncher) -> None:
        self.rank = None if start.rank is None else start.rank.number
        self.channel = ApiChannel(start.endpoints)
        try:
            self.child = launcher.launch(encode_start(start))
        except OSError:
            self.channel.close()
            raise

    def kill(self) -> None:
        self.child.kill()
        self.channel.close()


class Worker:
    """A worker process with its channel, and what it reported of itself; its followers, where ranks share the model.

    They live and die together.
    """

    def __init__(self, start: Start, launcher: WorkerLauncher) -> None:
        self.ready = False
        self.failure: MaxserveError | None = None
        self.processes: list[Process] = []
        try:
            for each in (start, *follower_starts(start)):
                self.processes.append(Process(each, launcher))
        except OSError:
            self.kill()
            raise
        self.channel, self.child = self.processes[0].channel, self.processes[0].child

    def give_up(self, failure: MaxserveError) -> None:
        """Ends the processes; `failure` says why they were no use."""
        self.failure = failure
        self.cut()

    def cut(self) -> None:
        for process in self.processes:
            process.child.cut()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()


class Supervisor:
    """Keeps one worker running as `start` describes it, with plugins of the given fingerprint.

    `spawn` may come before the event loop, which owns the rest.
    """

    def __init__(self, start: Start, fingerprint: str, client: WorkerClient, launcher: WorkerLauncher) -> None:
        self._start = start
        self._launcher = launcher
        self._fingerprint = fingerprint
        self.client = client
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
            msgspec.structs.replace(self._start, changes=self.client.adapters.for_a_new_worker), self._launcher
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
        for process in worker.processes:
            process.channel.listen(self._listener(worker, process, watcher))
        exits = {asyncio.ensure_future(process.child.exited()): process for process in worker.processes}
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((*exits, stopping), return_when=asyncio.FIRST_COMPLETED)
            if not any(exited.done() for exited in exits) and self._worker is worker:
                await self._dismiss(worker, exits)
        finally:
            stopping.cancel()
            first = next((exited for exited in exits if exited.done()), next(iter(exits)))
            for exited in exits:
                exited.cancel()
            self.kill()
        process = exits[first]
        self._bury(worker, watcher, describe_exit(process.child.pid, first.result(), process.rank))

    async def _dismiss(self, worker: Worker, exits: Collection[asyncio.Future[int]]) -> None:
        if worker.ready:
            worker.channel.send(Shutdown())  # who follows it ends with it
        else:
            worker.cut()
        _, left = await asyncio.wait(exits, timeout=LAST_GOODBYE)
        if left:
            log.warning("the worker did not end within %g s and is killed", LAST_GOODBYE)
            for process in worker.processes:
                process.child.kill()
            await asyncio.wait(left)

    def _bury(self, worker: Worker, watcher: Watcher, message: str) -> None:
        if self._stopping.is_set():
            self.client.stop()
            return
        if self.client.worker_died(WorkerDied(message)):
            self._deaths = 0  # the next worker has not what this one died of
        if worker.failure is not None and not worker.ready:
            raise worker.failure
        watcher.on_death(str(worker.failure or message))
        self._count_death(str(worker.failure or message))

    def _count_death(self, message: str) -> None:
        if self.client.served > self._served:
            self._deaths = 0
        self._served = self.client.served
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

    def _listener(self, worker: Worker, process: Process, watcher: Watcher) -> Callable[[FromWorker], None]:
        def listen(message: FromWorker) -> None:
            if worker.failure is not None:
                return  # it was given up: what it sent before it heard of that counts no more
            match message:
                case Outputs():
                    self.client.deliver(message)
                case Phase(text=text, fraction=fraction):
                    watcher.on_progress(text, fraction)
                case Hello():
                    self._greet(worker, process, message)
                case ReadsAdapter(name=name):
                    self.client.adapters.reads_again(name)
                    worker.channel.send(Heard())
                case Ready(info=info):
                    worker.ready = True
                    self.client.attach(worker.channel, info.max_batch_size, info.adapters)
                    watcher.on_ready(info)
                case Failed(message=text, kind=kind):
                    failure = UsageError(text) if kind == "usage" else EngineError(f"{_named(process.rank)}{text}")
                    worker.give_up(failure)

        return listen

    def _greet(self, worker: Worker, process: Process, hello: Hello) -> None:
        if hello.fingerprint == self._fingerprint:
            process.channel.connect()
            return
        worker.give_up(
            PluginError(
                f"the worker's plugins (fingerprint {hello.fingerprint}) are not those of the server "
                f"({self._fingerprint}); did an installation change meanwhile?"
            )
        )


def _named(rank: int | None) -> str:
    """Who says something, if it is not the worker proper."""
    return f"rank {rank}: " if rank else ""


def describe_exit(pid: int, status: int, rank: int | None = None) -> str:
    """Why a worker ended, or one of the ranks that are one, in words for an operator."""
    who = f"the worker (pid {pid})" if rank is None else f"rank {rank} of the worker (pid {pid})"
    if status >= 0:
        return f"{who} ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    text = f"{who} was ended by {name}"
    if -status == signal.SIGKILL:
        text += (
            "; if no user sent it, the system ran out of memory: "
            "lower --device-memory-utilization, --max-batch-size or --max-length"
        )
    return text
