"""Threads that are kept for one kind of work, so that it holds up no work of another kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from maxserve.interfaces.errors import WorkerDied

T = TypeVar("T")


class Threads:
    """Up to `count` threads, which start when they are needed. One event loop owns them."""

    def __init__(self, count: int, name: str) -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=f"maxserve-{name}")
        self._closed = False

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises; what waits for a thread when the caller is cancelled is never begun.

        WorkerDied after `close`: only requests to a worker that is gone are still under way then.
        """
        if self._closed:
            raise WorkerDied("the application that took the request was replaced")
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def close(self) -> None:
        """Ends the threads once they have done what they have; does not wait for them."""
        self._closed = True
        self._executor.shutdown(wait=False)


async def in_thread_if(large: bool, work: Callable[[], T]) -> T:
    """What `work` returns or raises, which is run in a thread where it is `large`, and at once where it is not."""
    return await asyncio.to_thread(work) if large else work()
