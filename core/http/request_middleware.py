"""The server's own middleware of all requests, whatever their path: ids, statistics, answers even when code fails."""

from __future__ import annotations

import re
import time
from secrets import token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.http.failures import Failure, FailureDialects, failure_of, log
from maxserve.core.http.mounting import ANY_METHOD, RouteTemplates
from maxserve.core.interfaces.observer import ResponseStats
from maxserve.core.runtime.observing import Observers

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}\Z")


class RequestMiddleware:
    """ASGI middleware. The id is in `scope["state"]["request_id"]` and in the answer's X-Request-ID.

    `observers` hear of every answer, by the template of its path.
    """

    def __init__(
        self, app: ASGIApp, *, dialects: FailureDialects, observers: Observers, templates: RouteTemplates
    ) -> None:
        self._app, self._dialects = app, dialects
        self._observers, self._templates = observers, templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["method"] == "HEAD":  # answered as GET; the HTTP server leaves the body out
            scope = {**scope, "method": "GET"}
        answer = _Labelled(send, request_id)
        start = time.monotonic()
        try:
            await self._guarded(scope, receive, answer)
        finally:
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

    async def _guarded(self, scope: Scope, receive: Receive, send: _Labelled) -> None:
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            if not send.started:  # unread, but access logs and HTTP servers want an end
                await self._answer(Failure(status=499, message="the client has gone"), scope, receive, send)
        except Exception as error:
            failure = failure_of(error)
            if failure.status >= 500:
                log.error("%s %s [%s] failed", scope["method"], scope["path"], send.request_id, exc_info=error)
            if send.started:
                send.failed = True
                raise
            await self._answer(failure, scope, receive, send)

    async def _answer(self, failure: Failure, scope: Scope, receive: Receive, send: Send) -> None:
        await self._dialects.response(failure, scope)(scope, receive, send)


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
    return given if _SANE_ID.match(given) else token_hex(16)
