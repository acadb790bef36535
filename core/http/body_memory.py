"""The memory of the bodies that are being received or answered: how much there may be, and that it goes back."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.exceptions import HTTPException

from maxserve.core.http.errors import RETRY_AFTER
from maxserve.core.http.threads import Threads
from maxserve.core.interfaces.errors import WorkerDied
from maxserve.core.runtime.heap import give_back

UNCOUNTED = 64 * 1024  # bytes of a body that is always taken
LARGE = 1 << 20  # bytes of bodies after which freed memory is given back to the system
LARGEST_AT_ONCE = 16  # bodies of the largest size for which there is memory
PAUSE = 1.0  # seconds between two times that memory is given back


class BodyMemory:
    """Counts the bytes of bodies larger than UNCOUNTED. `largest` is what one may have. One event loop owns it."""

    def __init__(self, largest: int, threads: Threads) -> None:
        self.largest = largest
        self._threads = threads
        self._left = LARGEST_AT_ONCE * largest
        self._freed = 0
        self._trimming: asyncio.Task[None] | None = None

    def take(self, size: int) -> None:
        """HTTPException 503 where there is no room for `size` bytes more."""
        if size > self._left:
            message = "the server has as many large bodies as it has memory for; try again later"
            raise HTTPException(503, message, {"Retry-After": str(RETRY_AFTER)})
        self._left -= size

    def release(self, size: int) -> None:
        """The bytes are needed no more; what objects were made of them goes in a moment."""
        self._left += size
        self._freed += size
        if self._freed > LARGE and self._trimming is None:
            self._trimming = asyncio.ensure_future(self._trim())

    async def _trim(self) -> None:
        await asyncio.sleep(PAUSE)
        self._freed, self._trimming = 0, None
        with suppress(WorkerDied):
            await self._threads.run(give_back)
