from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from maxserve.core.http.health_gate import LIVE, PROBES, HealthGate

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client(gate: HealthGate) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test")


async def test_while_loading() -> None:
    gate = HealthGate()
    gate.progress("loading weights", 0.25)
    async with client(gate) as http:
        health = await http.get("/health")
        assert (health.status_code, health.headers["retry-after"].isdecimal()) == (503, True)
        assert health.json() == {"status": "loading", "phase": "loading weights", "progress": 0.25}
        other = await http.post("/v1/chat/completions", json={})
    assert other.status_code == 503
    assert other.headers["retry-after"].isdecimal()
    error = other.json()["error"]
    assert error["message"] == "the model is loading (loading weights, 25%)"
    assert error["type"] == "server_error"


async def test_open_hands_on_all_but_health() -> None:
    gate = HealthGate()
    gate.open(PlainTextResponse("from the application"))
    assert gate.is_open
    async with client(gate) as http:
        assert (await http.get("/health")).json() == {"status": "ok"}
        assert (await http.head("/health")).status_code == 200
        assert (await http.get("/anything")).text == "from the application"
        posted = await http.post("/health")
    assert posted.status_code == 405
    assert "GET" in posted.headers["allow"]


async def test_closed_and_failed() -> None:
    gate = HealthGate()
    gate.open(PlainTextResponse("x"))
    gate.close("the worker died and is being restarted")
    async with client(gate) as http:
        assert (await http.get("/health")).json() == {
            "status": "restarting",
            "message": "the worker died and is being restarted",
        }
        assert (await http.get("/v1/models")).json()["error"]["message"] == "the worker died and is being restarted"
        gate.open(PlainTextResponse("again"))
        assert (await http.get("/v1/models")).text == "again"
        gate.fail("it died three times")
        health = await http.get("/health")
    assert health.status_code == 503
    assert health.json() == {"status": "failed", "message": "it died three times"}


async def test_running_streams_go_on_when_it_closes() -> None:
    going = asyncio.Event()

    async def body() -> Any:
        yield b"one,"
        await going.wait()
        yield b"two"

    gate = HealthGate()
    gate.open(StreamingResponse(body()))
    async with client(gate) as http:
        running = asyncio.create_task(http.get("/stream"))
        await asyncio.sleep(0.01)
        gate.close("restarting")
        assert (await http.get("/stream")).status_code == 503
        going.set()
        assert (await running).text == "one,two"


async def test_websockets_are_turned_away() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await HealthGate()({"type": "websocket", "path": "/x"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1013, "reason": "the model is loading"}]


async def test_lifespan() -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent: list[str] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    await HealthGate()({"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_probes_tell_life_from_readiness() -> None:
    gate = HealthGate()
    gate.progress("loading weights", 0.25)
    async with client(gate) as http:
        assert {p: (await http.get(p)).status_code for p in PROBES} == {p: 200 if p in LIVE else 503 for p in PROBES}
        gate.open(PlainTextResponse("x"))
        assert {(await http.get(p)).status_code for p in PROBES} == {200}
        assert (await http.get("/v2/health/ready")).json() == {"ready": True}
        gate.fail("it is over")
        assert {(await http.get(p)).status_code for p in PROBES} == {503}
