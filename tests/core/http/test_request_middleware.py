from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter
from starlette.responses import PlainTextResponse, StreamingResponse

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.observer import RequestStats, ResponseStats, StepStats

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Listener:
    """An observer that keeps what it hears of answers."""

    def __init__(self) -> None:
        self.responses: list[ResponseStats] = []

    def on_step(self, stats: StepStats) -> None: ...
    def on_request(self, stats: RequestStats) -> None: ...

    def on_response(self, stats: ResponseStats) -> None:
        self.responses.append(stats)


def routes() -> APIRouter:
    router = APIRouter()

    @router.get("/words/{word}")
    async def word(word: str) -> str:
        return word

    @router.post("/words/new")
    async def new() -> str:
        return "new"

    @router.get("/broken/{kind:path}")
    async def broken(kind: str) -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            raise KeyError("inside")

        if kind:
            return StreamingResponse(pieces())
        raise KeyError("inside")

    router.mount("/files", PlainTextResponse("file"))
    return router


async def heard(*requests: tuple[str, str], root: str = "http://test/plugins/acme") -> list[ResponseStats]:
    """What an observer hears of the answers to some requests."""
    listener = Listener()
    context: Any = SimpleNamespace(
        model=SimpleNamespace(name="tiny"),
        observers=(SimpleNamespace(on_step=print, on_request=print), listener),
    )
    app = create_app(context, [("", routes(), "acme")])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=root) as client:
        for method, path in requests:
            await client.request(method, path, headers={"X-Request-ID": "a1"})
    return listener.responses


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("GET", "/words/a", "/plugins/acme/words/{word}", 200),
        ("HEAD", "/words/a", "/plugins/acme/words/{word}", 200),
        ("POST", "/words/new", "/plugins/acme/words/new", 200),
        ("POST", "/words/a", "/plugins/acme/words/{word}", 405),
        ("GET", "/files/a/b", "/plugins/acme/files/{path:path}", 200),
        ("GET", "/broken/", "/plugins/acme/broken/{kind:path}", 500),
        ("GET", "/broken/a/b", "/plugins/acme/broken/{kind:path}", 500),
        ("GET", "/nowhere", "", 404),
        ("GET", "http://test/openapi.json", "/openapi.json", 200),
    ],
)
async def test_observers_hear_of_every_answer_by_the_template_of_its_path(
    method: str, path: str, route: str, status: int
) -> None:
    (stats,) = await heard((method, path))
    assert (stats.route, stats.status, stats.id) == (route, status, "a1")
    assert stats.method == ("GET" if method == "HEAD" else method)
    assert 0 <= stats.total < 10


async def test_methods_of_clients_are_not_counted_one_by_one() -> None:
    (stats,) = await heard(("ODD17", "/words/a"))
    assert (stats.method, stats.status) == ("other", 405)


async def test_a_client_that_does_not_wait_for_the_end_is_a_499() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"a"

    router = APIRouter()
    router.add_api_route("/endless", lambda: StreamingResponse(endless()), methods=["GET"], response_model=None)
    listener = Listener()
    context: Any = SimpleNamespace(model=SimpleNamespace(name="tiny"), observers=(listener,))
    app = create_app(context, [("/", router, "acme")])
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"} if sent else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if len(sent) > 3:
            raise OSError("the socket is closed")
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/endless",
        "raw_path": b"/endless",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await app(scope, receive, send)
    assert [(stats.route, stats.status) for stats in listener.responses] == [("/endless", 499)]
