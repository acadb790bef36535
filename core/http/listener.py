"""The HTTP server: uvicorn, but idle when nothing comes, within bounds, and ended by us instead of by its signals."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.http.connection import CloseDelimited, Connection, ConnectionLimits, Crowd, Headers
from maxserve.core.http.failures import FailureDialects

GRACE = 5.0  # seconds that requests have to finish once the server is asked to stop
LAST_WORDS = 2.0  # seconds for clients to read why theirs did not, before connections are cut


class HttpServer(uvicorn.Server):
    """Serves one ASGI application on sockets that listen already, until `stop`."""

    def __init__(
        self,
        app: ASGIApp,
        limits: ConnectionLimits,
        headers: Headers = lambda _: {},
        dialects: FailureDialects | None = None,
    ) -> None:
        """`headers` says what else goes with answers to requests that are too malformed for the application, by their
        origin, and `dialects` what form these have."""
        config = uvicorn.Config(
            CloseDelimited(Dated(app)),
            http=partial(  # type: ignore[arg-type]
                Connection, limits=limits, headers=headers, dialects=dialects or FailureDialects(), crowd=Crowd()
            ),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing here asks where a request came from
            server_header=False,
            date_header=False,
            timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
            timeout_graceful_shutdown=math.ceil(GRACE + LAST_WORDS),
        )
        super().__init__(config)
        self._told_to_stop = asyncio.Event()

    def stop(self, *, at_once: bool = False) -> None:
        """Takes no more connections and lets `serve` return when requests have ended, or now."""
        self.should_exit = True
        self.force_exit = self.force_exit or at_once
        self._told_to_stop.set()

    async def main_loop(self) -> None:
        """Sleeps: uvicorn's own loop wakes ten times a second to renew the Date header."""
        await self._told_to_stop.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the owner of the event loop."""
        yield


class Dated:
    """ASGI middleware that gives every answer its Date."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._second = 0
        self._date = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_dated(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"date", self._now())]
            await send(message)

        await self._app(scope, receive, send_dated)

    def _now(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._date = second, formatdate(second, usegmt=True).encode()
        return self._date
