"""Memory of bodies: how large one may be, how much there may be at once, and that it goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request

from maxserve.core.http.app import create_app
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.middleware import bodies
from maxserve.plugins.middleware.bodies import UNCOUNTED, BodyMemory
from maxserve.plugins.middleware.options import BodyOptions
from maxserve.testing.middleware import MiddlewareChecks, middleware_stack

HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)
pytestmark = pytest.mark.anyio
LIMIT = 1 << 20


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client_of(largest: int) -> httpx.AsyncClient:
    router = APIRouter()

    @router.post("/note")
    async def note(request: Request) -> int:
        return len((await request.json())["words"])

    @router.post("/read")
    async def read(request: Request) -> int:
        return len(await request.body())

    context: Any = SimpleNamespace(model=SimpleNamespace(name="tiny"), observers=())
    stack = middleware_stack(HOST, BodyOptions(max_request_bytes=largest))
    app = create_app(context, [("/", router, "acme")], middleware=stack.inner)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(LIMIT) as http:
        yield http


async def test_large_bodies() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b"x" * 100

    async with client_of(1024) as client:
        assert (await client.post("/read", content=b"x" * 1024)).json() == 1024
        for content in (b"x" * 1025, chunks()):
            response = await client.post("/read", content=content)
            assert response.status_code == 413
            assert "1024 bytes" in response.json()["error"]["message"]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "LARGEST_AT_ONCE", 1)


async def test_all_bodies_together_are_bounded(little_memory: None, client: httpx.AsyncClient) -> None:
    """Large ones wait for others to go; small ones never."""
    more, begun = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"words": "'
        yield b"x" * (LIMIT - 1000)
        begun.set()
        await more.wait()
        yield b'"}'

    first = asyncio.ensure_future(client.post("/note", content=slow()))
    await begun.wait()
    refused = await client.post("/note", json={"words": "x" * UNCOUNTED})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "try again later" in refused.json()["error"]["message"]
    assert (await client.post("/note", json={"words": "x" * 1000})).json() == 1000
    more.set()
    assert (await first).json() == LIMIT - 1000
    assert (await client.post("/note", json={"words": "x" * UNCOUNTED})).json() == UNCOUNTED


async def test_memory_is_given_back_after_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(bodies, "give_back", lambda: given.append(threading.current_thread().name))
    monkeypatch.setattr(bodies, "PAUSE", 0.01)
    memory = BodyMemory(10 << 20)
    for size in (1000, 500_000, 3 << 20, 3 << 20):
        memory.take(size)
        memory.release(size)
    await asyncio.sleep(0.3)
    assert len(given) == 1  # once for all of them
    assert given[0] != "MainThread"
    memory.take(3 << 20)
    memory.release(3 << 20)
    await asyncio.sleep(0.3)
    assert len(given) == 2


class TestBodies(MiddlewareChecks):
    middleware = "bodies"
