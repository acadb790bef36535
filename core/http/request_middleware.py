"""Middleware of all requests, whatever their path: ids, memory of bodies, statistics, answers even when code fails."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.http.disconnect import ClientGone
from maxserve.core.http.failures import RETRY_AFTER, Failure, FailureDialects, failure_of, log
from maxserve.core.http.mounting import ANY_METHOD, RouteTemplates
from maxserve.core.http.threads import Threads
from maxserve.core.interfaces.errors import WorkerDied
from maxserve.core.interfaces.observer import ResponseStats
from maxserve.core.runtime.heap import give_back
from maxserve.core.runtime.observing import Observers

UNCOUNTED = 64 * 1024  # bytes of a body that is always taken
LARGE = 1 << 20  # bytes of bodies after which freed memory is given back to the system
LARGEST_AT_ONCE = 16  # bodies of the largest size for which there is memory
PAUSE = 1.0  # seconds between two times that memory is given back

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


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


class RequestMiddleware:
    """ASGI middleware. The id is in `scope["state"]["request_id"]` and in the answer's X-Request-ID.

    `observers` hear of every answer, by the template of its path.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        bodies: BodyMemory,
        dialects: FailureDialects,
        observers: Observers,
        templates: RouteTemplates,
    ) -> None:
        self._app, self._dialects = app, dialects
        self._bodies = bodies
        self._observers, self._templates = observers, templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["method"] == "HEAD":  # answered as GET; the HTTP server leaves the body out
            scope = {**scope, "method": "GET"}
        body, answer = _Limited(receive, scope, self._bodies), _Labelled(send, request_id)
        start = time.monotonic()
        try:
            await self._guarded(scope, body, answer)
        finally:
            body.close()
            self._observe(scope, answer, time.monotonic() - start)

    def _observe(self, scope: Scope, answer: _Labelled, total: float) -> None:
        method = scope["method"] if scope["method"] in ANY_METHOD else "other"  # those of clients are any number
        route = self._templates.of(method, scope["path"])
        self._observers.on_response(
            ResponseStats(
                id=answer.request_id,
                method=method,
                route=route,
                status=answer.outcome,
                total=total,
                finished=time.time(),
            )
        )

    async def _guarded(self, scope: Scope, receive: _Limited, send: _Labelled) -> None:
        try:
            receive.check_declared()
            await self._app(scope, receive, send)
        except (ClientGone, ClientDisconnect):
            if not send.started:  # unread, but access logs and HTTP servers want an end
                await self._tell(Failure(status=499, message="the client has gone"), scope, receive, send)
        except Exception as error:
            failure = failure_of(error)
            if failure.status >= 500:
                log.error("%s %s [%s] failed", scope["method"], scope["path"], send.request_id, exc_info=error)
            if send.started:
                send.failed = True
                raise
            await self._tell(failure, scope, receive, send)

    async def _tell(self, failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
        await self._dialects.response(failure, scope)(scope, receive, send)


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


class _Labelled:
    """Adds the request's id to the answer and remembers its status, once it has begun, and whether it ended."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.status = 0
        self.ended = self.failed = False

    @property
    def started(self) -> bool:
        return self.status != 0

    @property
    def outcome(self) -> int:
        """The status, 500 of what failed after it had begun, or 499 of what the client did not wait for."""
        if self.failed:
            return 500
        return self.status if self.ended else 499

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        elif not message.get("more_body"):
            self.ended = True
        await self._send(message)


def _request_id(given: str) -> str:
    return given if _SANE_ID.match(given) else uuid4().hex
