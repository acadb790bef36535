"""Memory of the bodies of requests: how large one may be, and all of them together."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.http import RETRY_AFTER
from maxserve.interfaces.middleware import MiddlewareContext
from maxserve.plugins.middleware.options import BodyOptions
from maxserve.runtime import give_back

UNCOUNTED = 64 * 1024  # bytes of a body that is always taken
LARGE = 1 << 20  # bytes of bodies after which freed memory is given back to the system
LARGEST_AT_ONCE = 16  # bodies of the largest size for which there is memory
PAUSE = 1.0  # seconds between two times that memory is given back


class BodyMemory:
    """Counts the bytes of bodies larger than UNCOUNTED. `largest` is what one may have. One event loop owns it."""

    def __init__(self, largest: int) -> None:
        self.largest = largest
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
        await asyncio.to_thread(give_back)


class BodyLimit:
    """Refuses bodies larger than `--max-request-bytes` with 413, and with 503 what there is no memory for."""

    def __init__(self, context: MiddlewareContext) -> None:
        self._memory = BodyMemory(context.config(BodyOptions).max_request_bytes)

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def limited(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            body = _Limited(receive, scope, self._memory)
            try:
                body.check_declared()
                await app(scope, body, send)
            finally:
                body.close()

        return limited


class _Limited:
    """Passes the body on until it is larger than allowed (HTTPException 413), or all bodies together are (503)."""

    def __init__(self, receive: Receive, scope: Scope, bodies: BodyMemory) -> None:
        self._receive = receive
        self._declared = Headers(scope=scope).get("content-length", "")
        self._bodies = bodies
        self._read = self._taken = 0

    def check_declared(self) -> None:
        if self._declared.isdecimal() and int(self._declared[:20]) > self._bodies.largest:
            self._refuse()

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read += len(message.get("body", b""))
            if self._read > self._bodies.largest:
                self._refuse()
            if self._read > UNCOUNTED:
                self._bodies.take(self._read - self._taken)
                self._taken = self._read
        return message

    def close(self) -> None:
        """The request is over, and with it whatever became of its body."""
        if self._taken:
            self._bodies.release(self._taken)
            self._taken = 0

    def _refuse(self) -> None:
        raise HTTPException(413, f"the body is larger than the {self._bodies.largest} bytes this server takes")
