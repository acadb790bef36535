"""The executor `local`: the worker is a child process of the server's."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING

from maxserve.interfaces.executor import Endpoints, ExecutorContext
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.plugins.executors.options import EndpointOptions
from maxserve.plugins.executors.replicas import replica_settings

if TYPE_CHECKING:
    from maxserve.options import Settings


class LocalLauncher:
    """Starts child processes."""

    def __init__(self, context: ExecutorContext) -> None:
        self._context = context
        self._sets = itertools.count()

    def endpoints(self) -> AbstractContextManager[Endpoints]:
        base = self._context.config(EndpointOptions).zmq_endpoint_base
        return endpoints(base, next(self._sets))

    def replica_settings(self, settings: Settings) -> Sequence[Settings]:
        return replica_settings(settings)

    def launch(self, start: bytes) -> LocalWorker:
        return LocalWorker(self._context, start)


class LocalWorker:
    """One child process. It must be started by a thread that outlives it: Linux ends it with that thread."""

    def __init__(self, context: ExecutorContext, start: bytes) -> None:
        environ = {**context.environ, **os.environ}
        self._process = _begun(context, environ) or subprocess.Popen(
            context.command,
            stdin=subprocess.PIPE,
            stderr=None if context.relay is None else subprocess.PIPE,
            env=environ,
        )
        if context.relay is not None and self._process.stderr is not None:
            context.relay(self._process.stderr)
        self.pid = self._process.pid
        assert self._process.stdin is not None
        self._lifeline = self._process.stdin
        with suppress(BrokenPipeError):  # it ended at once; its watcher hears of that
            self._lifeline.write(start)
            self._lifeline.flush()

    async def exited(self) -> int:
        """Its exit status, negative for a signal, as soon as it has one."""
        loop = asyncio.get_running_loop()
        status: asyncio.Future[int] = loop.create_future()

        def tell(code: int) -> None:
            if not status.done():
                status.set_result(code)

        def wait() -> None:
            code = self._process.wait()
            with suppress(RuntimeError):  # the loop is closed: the answer is no longer wanted
                loop.call_soon_threadsafe(tell, code)

        threading.Thread(target=wait, name=f"await-worker-{self.pid}", daemon=True).start()
        return await status

    def cut(self) -> None:
        """Closes the lifeline: the worker ends at once, whatever it is at."""
        with suppress(BrokenPipeError):
            self._lifeline.close()

    def kill(self) -> None:
        """Ends it for certain and returns when it is gone; harmless when it is."""
        self.cut()
        self._process.kill()
        self._process.wait()


def _begun(context: ExecutorContext, environ: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
    return None if context.begun is None else context.begun(environ, context.relay is not None)
