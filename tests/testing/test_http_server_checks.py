"""The checks of HTTP servers take what is right and find what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from maxserve.core.interfaces.http_server import HttpServer
from maxserve.plugins.uvicorn.server import UvicornServer
from maxserve.testing.http_server import HttpServerChecks


class Gathering(UvicornServer):
    """Sends an answer once it is whole."""

    async def serve(self, app: Any, sockets: Sequence[Any]) -> None:
        async def gathering(scope: Any, receive: Any, send: Any) -> None:
            messages: list[Any] = []

            async def gather(message: Any) -> None:
                messages.append(message)

            await app(scope, receive, gather)
            for message in messages:
                await send(message)

        await super().serve(gathering, sockets)


class Deaf(UvicornServer):
    """Never tells the application that a client went."""

    async def serve(self, app: Any, sockets: Sequence[Any]) -> None:
        async def deaf(scope: Any, receive: Any, send: Any) -> None:
            async def first() -> Any:
                message = await receive()
                return message if message["type"] == "http.request" else {"type": "http.request"}

            await app(scope, first, send)

        await super().serve(deaf, sockets)


class Hasty(UvicornServer):
    """Cuts off at once, whatever it is asked."""

    def stop(self, *, at_once: bool) -> None:
        super().stop(at_once=True)


class Endless(UvicornServer):
    """Does not end by itself."""

    def stop(self, *, at_once: bool) -> None:
        if at_once:
            super().stop(at_once=True)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Gathering, "test_events_come_as_they_are_sent"),
        (Deaf, "test_a_client_that_hangs_up_is_a_disconnect"),
        (Hasty, "test_stop_lets_requests_finish"),
        (Endless, "test_stop_lets_requests_finish"),
        (Endless, "test_what_outlasts_the_grace_is_cut_off"),
    ],
)
def test_wrong_servers_are_found(wrong: Any, check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxserve.testing.http_server.SECONDS", 2.0)
    monkeypatch.setattr("maxserve.testing.http_server.GRACE", 1.0)

    class Checks(HttpServerChecks):
        component = HttpServer(name="wrong", build=wrong)

    with pytest.raises(Exception, match=r".*"):
        getattr(Checks(), check)()
