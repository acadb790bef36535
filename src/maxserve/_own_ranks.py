"""The ranks that share a model with a program: its own process is the first, and starts the others."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from maxserve.core.config.values import cpu_ranks
from maxserve.core.interfaces.errors import EngineError, cause
from maxserve.core.registry.entries import load_ref
from maxserve.core.runtime.executors import build_executor, worker_start
from maxserve.core.runtime.lifeline import encode_start
from maxserve.core.runtime.messages import Failed, Start
from maxserve.core.runtime.rank_addresses import follower_starts
from maxserve.core.runtime.sockets import ApiChannel
from maxserve.core.runtime.supervisor import describe_exit

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.executor import WorkerLauncher, WorkerProcess
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.messages import FromWorker
    from maxserve.core.runtime.ranks import RankGroup

log = logging.getLogger("maxserve.worker")


class OwnRanks:
    """The other ranks, in a thread that hears of their end, and the `group` of this one. When one ends, all do."""

    group: RankGroup

    def __init__(self, settings: Settings, host: Host, files: ModelFiles) -> None:
        self._reason = ""
        self._closed = False
        self._children: list[WorkerProcess] = []
        self._stack = ExitStack()
        launcher = build_executor(settings, host)
        with ExitStack() as stack:
            start = worker_start(settings, host, files, stack.enter_context(launcher.endpoints()))
            first = start.rank
            assert first is not None, "there are several"
            self._loop = asyncio.new_event_loop()
            begun = threading.Event()
            watched = self._watch(launcher, follower_starts(start), begun)
            self._thread = threading.Thread(
                target=self._loop.run_until_complete, args=(watched,), name="maxserve-ranks", daemon=True
            )
            self._thread.start()  # which outlives the others: Linux ends them with the thread that started them
            stack.callback(self._end)
            begun.wait()
            self.group = load_ref(first.group)(first, self._failed)
            self._stack = stack.pop_all()

    async def _watch(self, launcher: WorkerLauncher, starts: list[Start], begun: threading.Event) -> None:
        """Starts them, and ends all when one has ended or says that it failed."""
        channels: list[ApiChannel] = []
        try:
            for start in starts:
                channels.append(ApiChannel(start.endpoints))
                number = 0 if start.rank is None else start.rank.number
                channels[-1].listen(partial(self._hear, number))
                self._children.append(launcher.launch(encode_start(start)))
            begun.set()
            ends = [asyncio.ensure_future(self._ended(number, each)) for number, each in enumerate(self._children, 1)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        except Exception as error:
            self._reason = self._reason or cause(error)
        finally:
            begun.set()
            self._kill()
            for channel in channels:
                channel.close()

    async def _ended(self, number: int, child: WorkerProcess) -> None:
        status = await child.exited()
        self._reason = self._reason or describe_exit(child.pid, status, number)

    def _hear(self, number: int, message: FromWorker) -> None:
        if isinstance(message, Failed):
            self._reason = f"rank {number}: {message.message}"
            self._kill()  # this process waits for it, and hears of its end

    def _kill(self) -> None:
        for child in self._children:
            child.kill()

    def _failed(self, error: Exception) -> NoReturn:
        self.close()
        raise EngineError(f"the processes that share the model are ended: {self._reason or cause(error)}") from error

    def close(self) -> None:
        """Ends the others; harmless when they are ended."""
        if not self._closed:
            self._closed = True
            with suppress(Exception):  # a rank that has ended cannot be sent anything
                self.group.close()
            self._stack.close()

    def _end(self) -> None:
        self._kill()
        self._thread.join()
        self._loop.close()


def own_ranks(settings: Settings, host: Host, files: ModelFiles) -> OwnRanks | None:
    """The ranks that `--devices` asks for; None where that is one."""
    return OwnRanks(settings, host, files) if cpu_ranks(settings.model.devices) > 1 else None
