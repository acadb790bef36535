"""Checks of HTTP servers, with an application that does what its path says.

class TestAcme(HttpServerChecks):
    http_server = "acme"
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, ClassVar

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from maxserve.core.http.failures import Failure, plain_failure
from maxserve.core.interfaces.http_server import HttpServer, HttpServerContext, ServesHttp
from maxserve.testing.resolve import load, resolve

__all__ = ["HttpServerChecks"]

SECONDS = 10.0
GRACE = 2.0
WAIT = 0.3  # seconds in which a server that does not wait for requests cuts them off


class HttpServerChecks:
    """Subclass it and name a registered `http_server`, or give the `component` itself.

    `sections` are the plugin's settings, by schema.
    """

    http_server: ClassVar[str] = ""
    component: ClassVar[HttpServer | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}

    def built(self) -> ServesHttp:
        """A fresh server."""
        build = load(resolve(HttpServer, self.http_server, self.component).build)
        context = HttpServerContext(sections=self.sections, grace=GRACE, refusal=_refusal)
        server: ServesHttp = build(context)
        return server

    @contextmanager
    def running(self) -> Iterator[_Running]:
        """A server in a thread, until the block ends."""
        running = _Running(self.built())
        try:
            yield running
        finally:
            running.stop(at_once=True)
            running.thread.join(SECONDS)
            assert not running.thread.is_alive(), "the server did not end within seconds of `stop(at_once=True)`"

    def test_requests_are_answered(self) -> None:
        body = bytes(range(256)) * 4000
        with self.running() as running, httpx.Client(base_url=running.url, timeout=SECONDS) as client:
            for _ in range(3):
                answer = client.post("/length", content=body, headers={"x-tag": "a"})
                assert (answer.status_code, answer.text) == (200, f"{len(body)} a")
            assert client.head("/length").content == b""
            assert client.get("/length?of=nothing").text == "0 of=nothing"

    def test_events_come_as_they_are_sent(self) -> None:
        with self.running() as running, httpx.stream("GET", running.url + "/stream", timeout=SECONDS) as answer:
            pieces = answer.iter_raw()
            assert next(pieces) == b"one", "the first piece came only with what followed it"
            running.app.more.set()
            assert b"".join(pieces) == b"two"

    def test_a_client_that_hangs_up_is_a_disconnect(self) -> None:
        with self.running() as running:
            with closing(socket.create_connection(running.address, timeout=SECONDS)) as line:
                line.sendall(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                assert running.app.waiting.wait(SECONDS)
            assert running.app.gone.wait(SECONDS), "no http.disconnect came"

    def test_stop_lets_requests_finish(self) -> None:
        with self.running() as running:
            with httpx.stream("GET", running.url + "/stream", timeout=SECONDS) as answer:
                pieces = answer.iter_raw()
                assert next(pieces) == b"one"
                running.stop(at_once=False)
                time.sleep(WAIT)
                running.app.more.set()
                assert b"".join(pieces) == b"two"
            running.thread.join(SECONDS)
            assert not running.thread.is_alive(), "`serve` did not return although no request is under way"

    def test_what_outlasts_the_grace_is_cut_off(self) -> None:
        with self.running() as running, closing(socket.create_connection(running.address, SECONDS)) as line:
            line.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert line.recv(1)
            running.stop(at_once=False)
            running.thread.join(SECONDS)
            assert not running.thread.is_alive(), "`serve` waited for longer than its grace"

    def test_what_is_no_http_is_refused(self) -> None:
        with self.running() as running:
            with closing(socket.create_connection(running.address, timeout=SECONDS)) as line:
                line.sendall(b"hello\r\n\r\n")
                answer = b""
                with suppress(ConnectionError):
                    while piece := line.recv(65536):
                        answer += piece
            assert not answer or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
            with httpx.Client(base_url=running.url, timeout=SECONDS) as client:
                assert client.get("/length").status_code == 200


class _App:
    """`/length` tells of the request, `/stream` waits after its first piece, `/wait` for the client to go."""

    def __init__(self) -> None:
        self.more, self.waiting, self.gone = threading.Event(), threading.Event(), threading.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", f"a scope of {scope['type']} came"
        answer = await self._answer(Request(scope, receive), receive)
        await answer(scope, receive, send)

    async def _answer(self, request: Request, receive: Receive) -> Response:
        if request.url.path == "/stream":
            return StreamingResponse(self._pieces())
        if request.url.path == "/wait":
            self.waiting.set()
            while (await receive())["type"] != "http.disconnect":
                pass
            self.gone.set()
        tag = request.headers.get("x-tag", request.url.query)
        return PlainTextResponse(f"{len(await request.body())} {tag}")

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield b"one"
        while not self.more.is_set():
            await asyncio.sleep(0.01)
        yield b"two"


class _Running:
    """A server that runs in a thread of its own."""

    def __init__(self, server: ServesHttp) -> None:
        self.app = _App()
        self._server = server
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.address: tuple[str, int] = self._listening.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="http", daemon=True)
        self.thread.start()
        assert self._started.wait(SECONDS)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._started.set()
        with suppress(asyncio.CancelledError):
            await self._server.serve(self.app, [self._listening])

    def stop(self, *, at_once: bool) -> None:
        with suppress(RuntimeError):  # it has ended, and its loop is closed
            self._loop.call_soon_threadsafe(lambda: self._server.stop(at_once=at_once))


def _refusal(failure: Failure, headers: Headers) -> Response:
    return plain_failure(failure)
