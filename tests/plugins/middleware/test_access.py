"""Pages of other sites, names that were rebound, and the clients that are neither."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import APIRouter, Request
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from maxserve.core.http.app import create_app
from maxserve.core.http.failures import Failure, FailureDialects
from maxserve.core.http.health_gate import HealthGate
from maxserve.core.interfaces.middleware import MiddlewareContext
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.api.common.endpoint import Endpoint
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.json_body import read_body
from maxserve.plugins.middleware.access import OriginCheck
from maxserve.plugins.middleware.options import AccessOptions, BodyOptions
from maxserve.testing.middleware import MiddlewareChecks, middleware_stack

HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)
pytestmark = pytest.mark.anyio

EVIL = {"Origin": "http://evil.example"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language": "en"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Question(Body):
    word: str


async def never(question: Question, call: Any) -> Any:
    raise AssertionError


def client(
    asked: str = "127.0.0.1:8000", /, host: str = "127.0.0.1", largest: int = 1 << 20, **access: Any
) -> httpx.AsyncClient:
    context: Any = SimpleNamespace(model=SimpleNamespace(name="tiny"), observers=())
    stack = middleware_stack(HOST, AccessOptions(**access), BodyOptions(max_request_bytes=largest), address=host)
    router = APIRouter()

    @router.get("/models")
    async def models() -> str:
        return "here"

    @router.post("/reset")
    async def reset() -> str:
        return "done"

    @router.post("/ask")
    async def ask(request: Request) -> str:
        return (await read_body(request, Question)).word

    Endpoint(path="/fail", body=Question, run=never).add_to(router)
    gate = HealthGate()
    gate.open(create_app(context, [("/", router, "acme")], middleware=stack.inner))
    return httpx.AsyncClient(transport=httpx.ASGITransport(stack.around(gate)), base_url=f"http://{asked}")


async def test_pages_of_other_sites_may_do_nothing() -> None:
    async with client() as http:
        for answer in (
            await http.get("/models", headers=EVIL),
            await http.post("/reset", headers=EVIL),
            await http.post("/ask", content=b'{"word": "a"}', headers=EVIL),
            await http.post("/ask", json={"word": "a"}, headers=EVIL),
            await http.options("/ask", headers={**EVIL, "Access-Control-Request-Method": "POST"}),
        ):
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
            assert "--allowed-origins http://evil.example" in answer.json()["error"]["message"]
            assert answer.json()["error"]["code"] == "foreign_origin"


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "https://evil.example:8000",
        "null",
        "http://127.0.0.1.evil.example:8000",
        "http://localhost.evil.example",
        "http://192.168.1.66:8000",
        "http://[::2]:8000",
        "http://[::1",
        "http://",
        "evil",
    ],
)
async def test_foreign_sites(origin: str) -> None:
    async with client() as http:
        assert (await http.post("/reset", headers={"Origin": origin})).status_code == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://127.0.0.1:8000",
        "http://localhost:3000",
        "https://localhost",
        "http://[::1]:8000",
        "http://ui.localhost:5173",
        "app://obsidian.md",
        "tauri://localhost",
        "vscode-webview://1abc",
        "chrome-extension://abcdefghijklmnop",
    ],
)
async def test_pages_of_this_machine_and_of_programs(origin: str) -> None:
    async with client() as http:
        assert (await http.post("/reset", headers={"Origin": origin})).status_code == 200


async def test_a_page_that_this_server_was_asked_for() -> None:
    for host, origin, status in (
        ("10.0.0.5:8000", "http://10.0.0.5:8000", 200),
        ("10.0.0.5", "http://10.0.0.5", 200),
        ("10.0.0.5", "https://10.0.0.5", 200),  # a proxy that ends TLS
        ("10.0.0.5:8000", "http://10.0.0.5:3000", 403),
        ("gpu-box:8000", "http://gpu-box:8000", 200),
        ("llm.company.example", "https://llm.company.example", 200),
        ("127.0.0.1:8000", "https://llm.company.example", 200),  # a proxy that puts its own Host there
    ):
        async with client(host, host="0.0.0.0", allowed_hosts=("llm.company.example",)) as http:
            answer = await http.post("/reset", headers={"Origin": origin, **BROWSER})
            assert answer.status_code == status, (host, origin)


OWN_NAMES = """
127.0.0.1 127.0.0.1:8000 localhost localhost:8000 LOCALHOST. a.localhost [::1]:8000 [::1] 10.0.0.5:8000 gpu-box
maxserve:8000 maxserve.default.svc maxserve.default.svc.cluster.local:8000 host.docker.internal:8000 nas.local box.lan
box.home.arpa
"""
FOREIGN_NAMES = """
evil.example evil.example:8000 127.0.0.1.nip.io localhost.evil.example 127.1 a.b.c.d evil.example. EVIL.EXAMPLE
1.0.0.127.in-addr.arpa maxserve.dev xn--e1afmkfd.example
"""


@pytest.mark.parametrize("host", OWN_NAMES.split())
async def test_names_that_nobody_can_register(host: str) -> None:
    for bound in ("127.0.0.1", "0.0.0.0"):
        async with client(host=bound) as http:
            for headers in ({}, BROWSER):
                assert (await http.get("/models", headers={"Host": host, **headers})).status_code == 200


@pytest.mark.parametrize("host", FOREIGN_NAMES.split())
async def test_names_that_were_rebound(host: str) -> None:
    """Where only this machine reaches the server, any request; elsewhere what may be a page."""
    async with client() as http:
        answer = await http.get("/models", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "foreign_host"
        assert "--allowed-hosts" in answer.json()["error"]["message"]
    async with client(host="0.0.0.0") as http:
        assert (await http.get("/models", headers={"Host": host})).status_code == 200
        for sign in (*({name: value} for name, value in BROWSER.items()), EVIL, {"Sec-Fetch-Site": "same-origin"}):
            assert (await http.get("/models", headers={"Host": host, **sign})).status_code == 403


async def test_programs_that_look_a_little_like_browsers() -> None:
    """Node's fetch, by which OpenAI's JavaScript client asks."""
    node = {"Host": "maxserve.prod", "User-Agent": "node", "Accept-Language": "*", "Sec-Fetch-Mode": "cors"}
    async with client(host="0.0.0.0") as http:
        assert (await http.get("/models", headers=node)).status_code == 200


async def test_listed_names() -> None:
    async with client(allowed_hosts=("llm.example", "*.Company.example")) as http:
        for host, status in (
            ("llm.example", 200),
            ("a.company.example:443", 200),
            ("company.example", 403),
            ("b.llm.example", 403),
        ):
            assert (await http.get("/models", headers={"Host": host})).status_code == status
    async with client(allowed_hosts=("*",)) as http:
        assert (await http.get("/models", headers={"Host": "any.example"})).status_code == 200
        assert (await http.get("/models", headers={"Host": "any.example", **EVIL})).status_code == 200
    async with client(host="llm.example") as http:
        assert (await http.get("/models", headers={"Host": "llm.example"})).status_code == 200


async def status_of(headers: list[tuple[bytes, bytes]], **scope: Any) -> int:
    found: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        found.append(200)

    async def send(message: Message) -> None:
        found.append(message.get("status", message.get("code", 0)))

    check = OriginCheck(app, MiddlewareContext(host="127.0.0.1", response=FailureDialects().response))
    whole = {"type": "http", "method": "GET", "path": "/", "http_version": "1.1", "headers": headers, **scope}
    await check(whole, None, send)  # type: ignore[arg-type]
    return found[0]


async def test_unusable_hosts() -> None:
    assert await status_of([(b"host", b"localhost")]) == 200
    assert await status_of([]) == 400
    assert await status_of([], http_version="1.0") == 200
    for bad in (b"", b":8000", b"a b", b"user@localhost", b"localhost/x", b"\xff", b"[::1", b"localhost:x"):
        assert await status_of([(b"host", bad)]) == 400
    assert await status_of([(b"host", b"localhost"), (b"host", b"evil.example")]) == 400


async def test_websockets_are_asked_too() -> None:
    host = (b"host", b"localhost")
    assert await status_of([host], type="websocket") == 200
    assert await status_of([host, (b"origin", b"http://evil.example")], type="websocket") == 1008


async def test_posts_across_sites_without_an_origin() -> None:
    host, across = (b"host", b"localhost"), (b"sec-fetch-site", b"cross-site")
    assert await status_of([host, across], method="POST") == 403
    assert await status_of([host, across], method="GET") == 200  # a user followed a link


async def test_a_key_is_enough() -> None:
    async with client(api_key=("one",)) as http:
        headers = {"Host": "llm.example", "x-api-key": "one", **EVIL}
        assert (await http.get("/models", headers=headers)).status_code == 200
        assert (await http.get("/models", headers={**headers, "x-api-key": "two"})).status_code == 401


async def test_bodies_of_pages_must_say_what_they_are() -> None:
    async with client() as http:
        page = {"Origin": "http://127.0.0.1:8000"}
        assert (await http.post("/ask", content=b'{"word": "a"}')).json() == "a"
        assert (await http.post("/ask", content=b'{"word": "a"}', headers=page)).status_code == 415
        for plain in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            sent = {"Content-Type": plain}
            assert (await http.post("/ask", content=b'{"word": "a"}', headers=sent)).status_code == 415
        assert (await http.post("/ask", json={"word": "a"}, headers=page)).json() == "a"


# --- CORS -------------------------------------------------------------------------------------------------------------

SITE = {"Origin": "https://chat.example"}


async def test_pages_of_listed_sites_may_ask() -> None:
    ask = {**SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with client(allowed_origins=("https://chat.example",), api_key=("one",)) as http:
        preflight = await http.options("/ask", headers=ask)  # browsers send it without a key
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://chat.example"
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        other = await http.get("/models", headers={**EVIL, "x-api-key": "one"})
        assert "access-control-allow-origin" not in other.headers
    async with client(api_key=("one",)) as http:
        plain = await http.get("/models", headers=SITE)
        assert "access-control-allow-origin" not in plain.headers


@pytest.mark.parametrize("origins", [("https://chat.example",), ("*",)])
async def test_every_failure_can_be_read_by_listed_sites(origins: tuple[str, ...]) -> None:
    expected = "*" if origins == ("*",) else "https://chat.example"
    async with client(allowed_origins=origins, largest=1024) as http:
        answers = {
            200: await http.get("/models", headers=SITE),
            404: await http.get("/nowhere", headers=SITE),
            405: await http.post("/models", headers=SITE),
            413: await http.post("/ask", content=b"x" * 2000, headers=SITE),
            415: await http.post("/ask", content=b"x", headers={**SITE, "Content-Type": "text/plain"}),
            400: await http.post("/ask", json={}, headers=SITE),
            403: await http.get("/models", headers={**SITE, "Host": "evil.example"}),
            500: await http.post("/fail", json={"word": "a"}, headers=SITE),
        }
        answers[201] = await http.get("/health", headers=SITE)
    async with client(allowed_origins=origins, api_key=("one",)) as http:
        answers[401] = await http.get("/models", headers=SITE)
    closed = middleware_stack(HOST, AccessOptions(allowed_origins=origins)).around(HealthGate())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(closed), base_url="http://localhost") as http:
        answers[503] = await http.get("/models", headers=SITE)
    for status, answer in answers.items():
        assert answer.status_code == (status if status != 201 else 200)
        assert answer.headers["access-control-allow-origin"] == expected, status
        assert "Retry-After" in answer.headers["access-control-expose-headers"]


def headers_for(origin: str, origins: tuple[str, ...]) -> Mapping[str, str]:
    stack = middleware_stack(HOST, AccessOptions(allowed_origins=origins))
    failure = Failure(status=408, message="too slow")
    return stack.refusal(failure, Headers({"origin": origin} if origin else {})).headers


def test_headers_of_answers_of_no_application() -> None:
    site, field = "https://chat.example", "access-control-allow-origin"
    assert headers_for(site, (site,))[field] == site
    assert headers_for(site, ("*",))[field] == "*"
    assert field not in headers_for("http://evil.example", (site,))
    assert field not in headers_for("", ("*",))


class TestAccess(MiddlewareChecks):
    middleware = "access"
    sections: ClassVar[dict[type[Any], Any]] = {AccessOptions: AccessOptions(api_key=("one",))}
    admitted: ClassVar[dict[str, str]] = {"x-api-key": "one"}
    refused: ClassVar[dict[int, dict[str, str]]] = {401: {"x-api-key": "two"}}


class TestPages(MiddlewareChecks):
    middleware = "access"
    refused: ClassVar[dict[int, dict[str, str]]] = {403: EVIL, 400: {"host": "a b"}}


class TestCors(MiddlewareChecks):
    middleware = "cors"
    sections: ClassVar[dict[type[Any], Any]] = {AccessOptions: AccessOptions(allowed_origins=("*",))}
    admitted: ClassVar[dict[str, str]] = SITE
