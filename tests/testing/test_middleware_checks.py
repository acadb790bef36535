"""The checks of middleware take what is right and find what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.middleware import Middleware
from maxserve.testing.middleware import MiddlewareChecks


class Plain:
    """Refuses robots, and does nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (b"x-robot", b"yes") in scope["headers"]:
            raise RequestError("no robots", status=403)
        await self.app(scope, receive, send)


class TestPlain(MiddlewareChecks):
    component = Middleware(name="plain", build=lambda context: Plain)
    refused = {403: {"x-robot": "yes"}}  # noqa: RUF012


class Gathering(Plain):
    """Sends an answer once it is whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        messages: list[Message] = []

        async def gather(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, gather)
        for message in messages:
            await send(message)


class Eating(Plain):
    """Reads the body and leaves none."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

        async def nothing() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        await self.app(scope, nothing, send)


class Deaf(Plain):
    """Says for ever that the body goes on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def again() -> Message:
            message = await receive()
            return message if message["type"] == "http.request" else {"type": "http.request"}

        await self.app(scope, again, send)


class Hiding(Plain):
    """Answers what fails itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except KeyError:
            await PlainTextResponse("fine")(scope, receive, send)


class Late(Plain):
    """Refuses after the application was asked."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def drop(message: Message) -> None: ...

        await self.app(scope, receive, drop)
        raise RequestError("no", status=403)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Gathering, "test_events_pass_as_they_come"),
        (Eating, "test_bodies_and_answers_pass_unchanged"),
        (Deaf, "test_a_client_that_hangs_up_is_heard_of"),
        (Hiding, "test_failures_of_routes_are_passed_on"),
        (Plain, "test_what_is_refused_never_reaches_the_application"),
        (Late, "test_what_is_refused_never_reaches_the_application"),
    ],
)
def test_wrong_middleware_is_found(wrong: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxserve.testing.middleware.SECONDS", 0.5)

    class Checks(MiddlewareChecks):
        component = Middleware(name="wrong", build=lambda context: wrong)
        refused = {403: {"x-robot": "no"}}  # noqa: RUF012

    with pytest.raises((AssertionError, TimeoutError)):
        getattr(Checks(), check)()
