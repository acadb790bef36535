"""A second executor: the worker runs in a thread of the server's process."""

from __future__ import annotations

import asyncio
import io
import os
import threading

from maxserve.core.config import Settings
from maxserve.core.runtime.lifeline import read_start


class ThreadLauncher:
    """Starts workers in threads, for tests; nothing that needs a process of its own, such as a signal, is there."""

    def __init__(self, context: object = None) -> None:
        pass

    def launch(self, start: bytes) -> ThreadWorker:
        return ThreadWorker(start)


class ThreadWorker:
    """One worker. It ends when it is told to; one that failed ends when it is cut off."""

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
