"""Server-sent events: a stream of them, which also ends well when something fails on the way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from maxserve.http import Failure, failure_of, log_unforeseen
from maxserve.plugins.api.common.disconnect import ClientGone, unless_gone

# Ends of lines to many clients, but not to server-sent events nor to JSON: U+0085, U+2028, U+2029.
_LINE_ENDS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


def event(data: bytes, name: bytes = b"") -> bytes:
    """`data`, which is JSON on one line, as a server-sent event; `name` for clients that go by names."""
    if b"\xe2\x80" in data or b"\xc2\x85" in data:
        for character, escape in _LINE_ENDS.items():
            data = data.replace(character, escape)
    return (b"event: " + name + b"\ndata: " if name else b"data: ") + data + b"\n\n"


class EventStream(Response):
    """Sends `events`; after a failure what `failed` makes of it; and `last` at the end of both.

    A client that hangs up closes `events`. `finished(status)` is called at the end: 200, the status the failure would
    have had, or 499.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        finished: Callable[[int], None],
        failed: Callable[[Failure], bytes],
        last: bytes = b"",
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._finished = finished
        self._failed = failed
        self._last = last
        self._first = b""

    async def begun(self) -> EventStream:
        """This stream once its first item is there: what is refused is raised here, before anything was answered."""
        try:
            self._first = await anext(self._events, b"")
        except BaseException:
            await self._events.aclose()
            raise
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 499
        try:
            status = await unless_gone(receive, self._send(scope, send))
        except ClientGone:
            pass
        finally:
            await self._events.aclose()
            self._finished(status)

    async def _send(self, scope: Scope, send: Send) -> int:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        status = 200
        try:
            async with aclosing(self._events) as events:
                if self._first:
                    await send({"type": "http.response.body", "body": self._first, "more_body": True})
                async for data in events:
                    if data:
                        await send({"type": "http.response.body", "body": data, "more_body": True})
        except Exception as error:
            failure = failure_of(error)
            status = failure.status
            log_unforeseen(error, f"the stream of {scope['path']}")
            await send({"type": "http.response.body", "body": self._failed(failure), "more_body": True})
        await send({"type": "http.response.body", "body": self._last, "more_body": False})
        return status
