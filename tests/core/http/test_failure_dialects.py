"""Failures that no route hears of, in the words of the API they are below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from maxserve.core.http.app import create_app
from maxserve.core.http.failures import EncodesFailure, Failure, FailureDialects
from maxserve.core.http.health_gate import HealthGate
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.middleware import WrapsApp
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.middleware.options import AccessOptions, BodyOptions
from maxserve.testing.middleware import middleware_stack

HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def acme(name: str) -> EncodesFailure:
    def tell(failure: Failure, request_id: str) -> Response:
        return JSONResponse({name: failure.message, "id": request_id}, failure.status, dict(failure.headers))

    return tell


def gate_of(dialects: FailureDialects, middleware: Sequence[WrapsApp] = ()) -> HealthGate:
    context: Any = SimpleNamespace(observers=(), model=SimpleNamespace(name="tiny"))
    router = APIRouter()

    @router.post("/acme/ask")
    async def ask(request: Request) -> int:
        return len(await request.body())

    @router.post("/acme/bug")
    async def bug() -> None:
        raise KeyError("inside")

    gate = HealthGate(dialects=dialects)
    gate.open(create_app(context, [("/", router, "acme")], dialects, middleware=middleware))
    return gate


def client(gate: HealthGate) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test")


DIALECTS = FailureDialects([("acme", {"/acme": acme("acme"), "/acme/deep/": acme("deep")})])

Ask = Callable[[httpx.AsyncClient], Any]


@pytest.mark.parametrize(
    ("ask", "status", "said"),
    [
        (lambda http: http.post("/acme/ask", headers={"x-api-key": "no"}), 401, "the API key is not one"),
        (lambda http: http.post("/acme/ask", content=b"x" * 2000), 413, "the body is larger than the 1024 bytes"),
        (lambda http: http.post("/acme/nothing"), 404, "there is no POST /acme/nothing"),
        (lambda http: http.get("/acme/ask"), 405, "does not take that method"),
        (lambda http: http.post("/acme/bug"), 500, "the server failed at this request"),
    ],
    ids=["key", "size", "path", "method", "bug"],
)
async def test_each_failure_is_told_in_the_apis_words(ask: Ask, status: int, said: str) -> None:
    options = AccessOptions(api_key=("yes",)), BodyOptions(max_request_bytes=1024)
    stack = middleware_stack(HOST, *options, dialects=DIALECTS)
    async with client(gate_of(DIALECTS, stack.inner)) as http:
        http.headers["authorization"] = "" if status == 401 else "Bearer yes"
        http.headers["x-request-id"] = "mine"
        answer = await ask(http)
    assert answer.status_code == status
    assert said in answer.json()["acme"]
    assert answer.json()["id"] == answer.headers["x-request-id"] == "mine"
    if status in (401, 405):
        assert {"www-authenticate", "allow"} & set(answer.headers), "headers of the failure are kept"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [("/acme", "acme"), ("/acme/deep", "deep"), ("/acme/deep/er", "deep"), ("/acmeish", "error"), ("/", "error")],
)
async def test_the_longest_path_decides_and_all_others_are_plain(path: str, dialect: str) -> None:
    async with client(gate_of(DIALECTS)) as http:
        answer = await http.get(path)
    assert answer.status_code == 404
    assert dialect in answer.json()


async def test_a_closed_gate_speaks_like_the_application_it_had() -> None:
    gate = gate_of(DIALECTS)
    gate.close("the worker is away")
    async with client(gate) as http:
        answer = await http.post("/acme/ask")
    assert (answer.status_code, answer.json()["acme"]) == (503, "the worker is away")
    assert answer.headers["retry-after"]
    async with client(HealthGate()) as http:
        assert "error" in (await http.post("/acme/ask")).json()


def test_two_plugins_cannot_word_the_same() -> None:
    with pytest.raises(PluginError, match="'one' and 'two' both word failures below /x; leave one of them out"):
        FailureDialects([("one", {"/x/": acme("a")}), ("two", {"/x": acme("b")})])


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/v1/messages", dict), ("/v1/messages/count_tokens", dict), ("/v2/models/x/infer", str), ("/v1/x", None)],
)
async def test_the_built_in_apis_say_how(path: str, kind: type | None) -> None:
    dialects = FailureDialects(
        (entry.plugin, {at: HOST.load(entry, ref) for at, ref in entry.component.failures.items()})
        for entry in HOST.routes
    )
    stack = middleware_stack(HOST, AccessOptions(api_key=("yes",)), dialects=dialects)
    async with client(gate_of(dialects, stack.inner)) as http:
        answer = await http.post(path)
    assert answer.status_code == 401
    assert isinstance(answer.json()["error"], kind or dict)
    assert kind is not None or answer.json()["error"]["type"] == "authentication_error"
    if kind is dict:
        assert answer.json()["type"] == "error"
        assert answer.json()["error"]["type"] == "authentication_error"
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
