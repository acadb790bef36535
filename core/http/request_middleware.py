"""What happens to every request, whatever its path: an id, limits of its body, and an answer even when code fails."""

from __future__ import annotations

import re
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.http.body_memory import UNCOUNTED, BodyMemory
from maxserve.core.http.dialects import FailureDialects
from maxserve.core.http.disconnect import ClientGone
from maxserve.core.http.errors import Failure, failure_of, log

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


class RequestMiddleware:
    """ASGI middleware. The id is in `scope["state"]["request_id"]` and in the answer's X-Request-ID."""

    def __init__(self, app: ASGIApp, *, bodies: BodyMemory, dialects: FailureDialects) -> None:
        self._app, self._dialects = app, dialects
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["method"] == "HEAD":  # answered as GET; the HTTP server leaves the body out
            scope = {**scope, "method": "GET"}
        body = _Limited(receive, scope, self._bodies)
        try:
            await self._guarded(scope, body, _Labelled(send, request_id))
        finally:
            body.close()

    async def _guarded(self, scope: Scope, receive: _Limited, send: _Labelled) -> None:
        try:
            receive.check_declared()
            await self._app(scope, receive, send)
        except ClientGone:
            if not send.started:  # unread, but access logs and HTTP servers want an end
                await self._tell(Failure(status=499, message="the client has gone"), scope, receive, send)
        except Exception as error:
            failure = failure_of(error)
            if failure.status >= 500:
                log.error("%s %s [%s] failed", scope["method"], scope["path"], send.request_id, exc_info=error)
            if send.started:
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
    """Adds the request's id to the answer and remembers whether one has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            MutableHeaders(scope=message)["X-Request-ID"] = self.request_id
        await self._send(message)


def _request_id(given: str) -> str:
    return given if _SANE_ID.match(given) else uuid4().hex
