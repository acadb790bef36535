"""Checks of middleware, around an application that does what its path says.

class TestAcme(MiddlewareChecks):
    middleware = "acme"
    admitted = {"x-acme": "yes"}
    refused = {401: {}, 403: {"x-acme": "no"}}
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, ClassVar

import httpx
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.http.failures import FailureDialects, failure_of
from maxserve.core.http.middleware import MiddlewareStack
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.middleware import Middleware, MiddlewareContext, WrapsApp
from maxserve.core.registry.protocol import Host
from maxserve.testing.resolve import load, resolve

__all__ = ["MiddlewareChecks", "middleware_stack"]

SECONDS = 10.0


def middleware_stack(
    host: Host,
    *options: Any,
    address: str = "127.0.0.1",
    dialects: FailureDialects | None = None,
) -> MiddlewareStack:
    """All middleware of a host's plugins. `options` are objects of their sections' schemas."""
    dialects = dialects or FailureDialects()
    sections = {type(each): each for each in options}
    context = MiddlewareContext(sections=sections, host=address, response=dialects.response)
    return MiddlewareStack.build(host, context, dialects)


class MiddlewareChecks:
    """Subclass it and name registered `middleware`, or give the `component` itself.

    `admitted` are the headers of a request that passes, `refused` those of requests that are answered instead, by the
    status of the answer. `sections` are the plugin's settings, by schema.
    """

    middleware: ClassVar[str] = ""
    component: ClassVar[Middleware | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    admitted: ClassVar[Mapping[str, str]] = {}
    refused: ClassVar[Mapping[int, Mapping[str, str]]] = {}

    def wrapped(self, app: ASGIApp) -> ASGIApp:
        """`app` behind the middleware alone; what that raises is answered, as a server does."""
        dialects = FailureDialects()
        context = MiddlewareContext(sections=self.sections, host="127.0.0.1", response=dialects.response)
        wrap: WrapsApp = load(resolve(Middleware, self.middleware, self.component).build)(context)
        behind = wrap(app)

        async def answering(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await behind(scope, receive, send)
            except RequestError as error:
                await dialects.response(failure_of(error), scope)(scope, receive, send)

        return answering

    def asked(self, app: ASGIApp, headers: Mapping[str, str], content: bytes = b"") -> httpx.Response:
        """The answer to one request."""

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.wrapped(app)), base_url="http://localhost"
            ) as client:
                return await asyncio.wait_for(client.post("/ask", content=content, headers=dict(headers)), SECONDS)

        return asyncio.run(ask())

    def test_bodies_and_answers_pass_unchanged(self) -> None:
        async def echo(scope: Scope, receive: Receive, send: Send) -> None:
            body, more = b"", True
            while more:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
            await PlainTextResponse(body, 201, {"x-app": "here"})(scope, receive, send)

        content = bytes(range(256)) * 1000
        answer = self.asked(echo, self.admitted, content)
        assert (answer.status_code, answer.headers.get("x-app")) == (201, "here")
        assert answer.content == content

    def test_events_pass_as_they_come(self) -> None:
        """Middleware that gathers an answer would hold up every stream."""
        passed = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.wait_for(passed.wait(), SECONDS)
            yield b"two"

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await StreamingResponse(pieces())(scope, receive, send)

        got = b""

        async def send(message: Message) -> None:
            nonlocal got
            got += message.get("body", b"")
            if got:
                passed.set()

        asyncio.run(_run(self.wrapped(app), self._scope(), send))
        assert got == b"onetwo"

    def test_a_client_that_hangs_up_is_heard_of(self) -> None:
        heard: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for _ in range(2):
                heard.append((await receive())["type"])
            await PlainTextResponse("late")(scope, receive, send)

        async def send(message: Message) -> None: ...

        asyncio.run(_run(self.wrapped(app), self._scope(), send))
        assert heard == ["http.request", "http.disconnect"]

    def test_failures_of_routes_are_passed_on(self) -> None:
        """The server words them; middleware that answers them itself would hide them."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            raise KeyError("inside")

        async def send(message: Message) -> None: ...

        try:
            asyncio.run(_run(self.wrapped(app), self._scope(), send))
        except KeyError:
            return
        raise AssertionError("an exception of the application did not come out of the middleware")

    def test_what_is_refused_never_reaches_the_application(self) -> None:
        reached: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            reached.append(scope)
            await PlainTextResponse("here")(scope, receive, send)

        for status, headers in self.refused.items():
            answer = self.asked(app, headers)
            assert answer.status_code == status, f"{dict(headers)}: {answer.status_code} {answer.text}"
            assert not reached, f"{dict(headers)}: the application was asked all the same"

    def _scope(self) -> Scope:
        headers: Iterable[tuple[str, str]] = {"host": "localhost", **self.admitted}.items()
        raw = [(name.lower().encode(), value.encode()) for name, value in headers]
        return {"type": "http", "method": "POST", "path": "/ask", "query_string": b"", "headers": raw, "state": {}}


async def _run(app: ASGIApp, scope: Scope, send: Send) -> None:
    """One request with an empty body, whose client hangs up after it."""
    messages: list[Message] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    await asyncio.wait_for(app({"http_version": "1.1", **scope}, receive, send), SECONDS)
