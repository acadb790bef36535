from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse, StreamingResponse

from maxserve.core.http.health_gate import HealthGate, all_probes
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.routes import Probe, Routes
from maxserve.core.registry.host import PluginHost
from maxserve.core.registry.options import PluginOptions

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
    assert error["code"] == "service_unavailable"


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
    probes = all_probes([("acme", {"/acme/up": Probe(answer={"up": True}), "/acme/alive": Probe(live=True)})])
    gate = HealthGate(probes)
    gate.progress("loading weights", 0.25)
    async with client(gate) as http:
        expected = {path: 200 if probe.live else 503 for path, probe in probes.items()}
        assert {p: (await http.get(p)).status_code for p in probes} == expected
        assert {path for path, status in expected.items() if status == 200} == {"/health/live", "/acme/alive"}
        gate.open(PlainTextResponse("x"))
        assert {(await http.get(p)).status_code for p in probes} == {200}
        assert (await http.get("/acme/up")).json() == {"up": True}
        gate.fail("it is over")
        assert {(await http.get(p)).status_code for p in probes} == {503}


def test_two_plugins_cannot_have_one_probe() -> None:
    with pytest.raises(PluginError, match="plugin 'two': /up is a probe of plugin 'one' already"):
        all_probes([("one", {"/up": Probe()}), ("two", {"/up": Probe()})])
    with pytest.raises(PluginError, match="/health is a probe of the server itself already"):
        all_probes([("one", {"/health": Probe()})])


@pytest.mark.parametrize(
    ("path", "live", "answer"),
    [
        ("/v1/health", False, {"status": "ok"}),
        ("/ping", False, {"status": "ok"}),
        ("/v2/health/ready", False, {"ready": True}),
        ("/v2/health/live", True, {"live": True}),
    ],
)
def test_the_built_in_apis_have_their_probes(path: str, live: bool, answer: dict[str, Any]) -> None:
    host = PluginHost.discover(PluginOptions(autoload=False), strict=True)
    probes = all_probes((entry.plugin, entry.component.probes) for entry in host.of(Routes))
    assert (probes[path].live, dict(probes[path].answer)) == (live, answer)
