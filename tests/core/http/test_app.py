from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, ClassVar

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.staticfiles import StaticFiles

from maxserve.core.http.app import create_app
from maxserve.core.http.mounting import LaterSchema
from maxserve.core.interfaces.errors import EngineError, PluginError, RequestError

pytestmark = pytest.mark.anyio


CONTEXT: Any = SimpleNamespace(model=SimpleNamespace(name="tiny"), observers=())


class Question(BaseModel):
    words: list[int]


def routes_of(*paths: str, method: str = "GET") -> APIRouter:
    async def answer() -> str:
        return "here"

    router = APIRouter()
    for path in paths:
        router.add_api_route(path, answer, methods=[method])
    return router


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = routes_of("/mine")

    async def fail(kind: str) -> None:
        raise {
            "bug": KeyError("inside"),
            "engine": EngineError("out of pages"),
            "teapot": RequestError("no", status=418),
        }[kind]

    async def ask(question: Question) -> int:
        return sum(question.words)

    router.add_api_route("/fail/{kind}", fail)
    router.add_api_route("/ask", ask, methods=["POST"])
    app = create_app(CONTEXT, [("", router, "acme")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/plugins/acme") as http:
        yield http


async def test_plugins_have_a_corner_of_their_own(client: httpx.AsyncClient) -> None:
    assert (await client.get("/mine")).json() == "here"


async def test_unknown_path(client: httpx.AsyncClient) -> None:
    response = await client.get("http://test/v1/nowhere")
    assert response.status_code == 404
    assert response.json()["error"] == {
        "message": "there is no GET /v1/nowhere on this server",
        "param": None,
        "code": "unknown_url",
    }


async def test_wrong_method(client: httpx.AsyncClient) -> None:
    response = await client.post("/mine")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")
    assert response.json()["error"]["code"] == "method_not_supported"


async def test_head_is_answered_as_get(client: httpx.AsyncClient) -> None:
    assert (await client.head("/mine")).status_code == 200
    assert (await client.head("/ask")).status_code == 405
    assert (await client.head("/nothing")).status_code == 404


async def test_no_pages_that_load_scripts_from_elsewhere(client: httpx.AsyncClient) -> None:
    assert (await client.get("http://test/docs")).status_code == 404
    assert (await client.get("http://test/openapi.json")).status_code == 200


@pytest.mark.parametrize("content", [b"{", b'{"words": "x"}', b'{"words": [1, "x"]}', b"\xff"])
async def test_plugins_own_models_are_refused_with_400(client: httpx.AsyncClient, content: bytes) -> None:
    response = await client.post("/ask", content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["message"]


async def test_failures(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    for kind, inside in (("bug", "inside"), ("engine", "out of pages")):
        response = await client.get(f"/fail/{kind}")
        assert response.status_code == 500
        assert response.json()["error"]["code"] == "internal_error"
        assert inside not in response.text
        assert inside in caplog.text
        assert response.headers["x-request-id"]
    teapot = await client.get("/fail/teapot")
    assert (teapot.status_code, teapot.json()["error"]["message"]) == (418, "no")


@pytest.mark.parametrize("given", ["abc-1.2:3_4", "x" * 128])
async def test_request_id_is_kept(client: httpx.AsyncClient, given: str) -> None:
    assert (await client.get("/mine", headers={"X-Request-ID": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb", "<script>"])
async def test_strange_request_id_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    answered = (await client.get("/mine", headers={"X-Request-ID": given})).headers["x-request-id"]
    assert len(answered) == 32
    assert answered.isalnum()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/v1/rerank", "/v1/rerank"),
        ("/v1/models/{id:path}", "/v1/models/mine"),
        ("/v1/models/mine", "/v1/models/{id:path}"),
        ("/v1/models/{id:path}", "/v1/models/{org}/{name}"),
        ("/a/{x}/c", "/a/b/{y}"),
        ("/files/{path:path}/info", "/files/a/b/info"),
    ],
)
def test_overlaps_name_both_plugins(first: str, second: str) -> None:
    mounts = [("/", routes_of(first), "builtin.openai"), ("/", routes_of(second), "acme")]
    with pytest.raises(PluginError) as error:
        create_app(CONTEXT, mounts)
    assert "'acme'" in str(error.value)
    assert "'builtin.openai'" in str(error.value)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/v1/models/{id:path}", "/v1/models"),
        ("/v1/models/{id}", "/v1/models/a/b"),
        ("/a/{x}/c", "/a/{x}/d"),
        ("/files/{path:path}/info", "/files/a/b/size"),
    ],
)
def test_neighbours_do_not_overlap(first: str, second: str) -> None:
    create_app(CONTEXT, [("/", routes_of(first), "one"), ("/", routes_of(second), "two")])


def test_another_method_or_prefix_does_not_overlap() -> None:
    mounts = [
        ("/", routes_of("/x"), "one"),
        ("/", routes_of("/x", method="POST"), "two"),
        ("/extra", routes_of("/x"), "three"),
        ("", routes_of("/x"), "four"),
    ]
    create_app(CONTEXT, mounts)


def test_what_the_server_answers_itself_is_taken() -> None:
    with pytest.raises(PluginError, match="the server itself"):
        create_app(CONTEXT, [("/", routes_of("/health"), "acme")])


def test_mounted_applications_take_all_below(tmp_path: Any) -> None:
    router = APIRouter()
    router.mount("/v1", StaticFiles(directory=tmp_path))
    with pytest.raises(PluginError, match="overlaps"):
        create_app(CONTEXT, [("/", routes_of("/v1/models"), "one"), ("/", router, "two")])


def test_routers_in_routers() -> None:
    outer = APIRouter()
    outer.include_router(routes_of("/x"))
    mounts = [("/", routes_of("/x"), "one"), ("/", outer, "two")]
    with pytest.raises(PluginError, match="'two'"):
        create_app(CONTEXT, mounts)


async def test_a_later_schema_is_made_when_somebody_asks_for_it() -> None:
    made: list[int] = []

    def describe() -> dict[str, Any]:
        made.append(1)
        return {"requestBody": {"required": True}}

    async def answer(request: Request) -> str:
        return "here"

    router = APIRouter()
    router.add_api_route("/x", answer, methods=["POST"], response_model=None, openapi_extra=LaterSchema(describe))
    app = create_app(CONTEXT, [("/", router, "acme")])
    assert made == []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        schemas = [(await http.get("/openapi.json")).json() for _ in range(2)]
    assert [schema["paths"]["/x"]["post"]["requestBody"] for schema in schemas] == [{"required": True}] * 2
    assert made == [1]


def test_routes_whose_schema_cannot_be_built_are_refused() -> None:
    """Otherwise /openapi.json would answer 500 for all routes."""

    class Odd:
        """Nothing that pydantic can describe."""

    class Body(BaseModel, arbitrary_types_allowed=True):
        odd: Odd

    async def answer(body: Body) -> str:
        return "here"

    router = APIRouter()
    router.add_api_route("/odd", answer, methods=["POST"])
    with pytest.raises(PluginError, match="plugin 'acme': the schema of its routes cannot be built"):
        create_app(CONTEXT, [("", router, "acme")])


class Told(APIRoute):
    """A route that notes that it is asked whether it has a path."""

    asked: ClassVar[list[str]] = []

    def matches(self, scope: Any) -> Any:
        self.asked.append(self.path)
        return super().matches(scope)


async def ask(app: Any, method: str, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        return await http.request(method, path)


async def test_a_path_is_led_to_the_plugin_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Told, "asked", [])
    first, second = APIRouter(route_class=Told), APIRouter(route_class=Told)
    first.add_api_route("/one", lambda: "one")
    second.add_api_route("/two", lambda: "two")
    app = create_app(CONTEXT, [("/", first, "acme"), ("/", second, "beta")])

    assert (await ask(app, "GET", "/two")).json() == "two"
    assert set(Told.asked) == {"/two"}
    assert (await ask(app, "GET", "/none")).status_code == 404
    assert set(Told.asked) == {"/one", "/two"}


async def test_one_path_with_methods_of_two_plugins() -> None:
    app = create_app(CONTEXT, [("/", routes_of("/a"), "acme"), ("/", routes_of("/a", method="PUT"), "beta")])

    assert [(await ask(app, method, "/a")).status_code for method in ("GET", "PUT", "POST")] == [200, 200, 405]


async def test_the_first_route_of_a_router_answers_however_it_is_written() -> None:
    async def named(name: str) -> str:
        return name

    router = APIRouter()
    router.add_api_route("/of/{name}", named)
    router.add_api_route("/of/all", lambda: "all of them")

    assert (await ask(create_app(CONTEXT, [("/", router, "acme")]), "GET", "/of/all")).json() == "all"
