"""The HTTP server: uvicorn, but idle when nothing comes, within bounds, and ended by us instead of by its signals."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from email.utils import formatdate
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.interfaces.http_server import HttpServerContext
from maxserve.plugins.uvicorn.connection import CloseDelimited, Connection, EvictableConnections, allow_connections
from maxserve.plugins.uvicorn.options import ConnectionLimits


class UvicornServer:
    """Serves one ASGI application on sockets that listen already, until `stop`."""

    def __init__(self, context: HttpServerContext) -> None:
        limits = context.config(ConnectionLimits)
        limits = replace(limits, max_connections=allow_connections(limits.max_connections))
        config = uvicorn.Config(
            "",  # there is none yet
            http=partial(  # type: ignore[arg-type]
                Connection, limits=limits, refusal=context.refusal, evictable=EvictableConnections()
            ),
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # nothing here asks where a request came from
            server_header=False,
            date_header=False,
            timeout_keep_alive=limits.keep_alive_timeout,  # type: ignore[arg-type]
            timeout_graceful_shutdown=math.ceil(context.grace),
        )
        self._server = _Server(config)

    async def serve(self, app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
        """Returns after `stop`, when requests have ended or the context's grace is over."""
        self._server.config.app = CloseDelimited(Dated(app))
        await self._server.serve(sockets=list(sockets))

    def stop(self, *, at_once: bool) -> None:
        """Takes no more connections and lets `serve` return when requests have ended, or now."""
        self._server.stop(at_once)


class _Server(uvicorn.Server):
    """Uvicorn, but idle when nothing comes, and ended by us instead of by its signals."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()

    def stop(self, at_once: bool) -> None:
        self.should_exit = True
        self.force_exit = self.force_exit or at_once
        self._stopping.set()

    async def main_loop(self) -> None:
        """Sleeps: uvicorn's own loop wakes ten times a second to renew the Date header."""
        await self._stopping.wait()

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
