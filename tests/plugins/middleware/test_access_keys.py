"""Keys, and who gets in without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import APIRouter

from maxserve.core.config import resolve
from maxserve.core.config.catalog import without_secrets
from maxserve.core.http.app import create_app
from maxserve.core.http.health_gate import PROBES, HealthGate
from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.plugins.commands.show import describe
from maxserve.plugins.middleware.options import AccessOptions
from maxserve.testing.middleware import middleware_stack
from maxserve.testing.sections import built_in_sections

HOST = PluginHost.discover(PluginOptions(autoload=False), strict=True)
pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def client(**access: Any) -> httpx.AsyncClient:
    context: Any = SimpleNamespace(model=SimpleNamespace(name="tiny"), observers=())
    router = APIRouter()

    @router.get("/mine")
    async def mine() -> str:
        return "here"

    gate = HealthGate()
    middleware = middleware_stack(HOST, AccessOptions(**access)).inner
    gate.open(create_app(context, [("/", router, "acme")], middleware=middleware))
    return httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://test")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer two"},
        {"authorization": "bearer one"},
        {"x-api-key": "two"},
        {"Authorization": "Basic abc", "x-api-key": "one"},
    ],
)
async def test_a_key_opens(headers: dict[str, str]) -> None:
    async with client(api_key=("one", "two")) as http:
        assert (await http.get("/mine", headers=headers)).json() == "here"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "sesame"},
        {"Authorization": "Bearer sesam"},
        {"Authorization": "Bearer sesame2"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize("path", ["/mine", "/openapi.json", "/nowhere"])
async def test_nobody_else_gets_in(headers: dict[str, str], path: str) -> None:
    async with client(api_key=("sesame",)) as http:
        response = await http.get(path, headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    assert "sesame" not in response.text


async def test_a_key_that_is_not_ascii_is_compared_too() -> None:
    async with client(api_key=("schlüssel",)) as http:
        good = await http.get("/mine", headers=[(b"x-api-key", "schlüssel".encode("latin-1"))])
        assert good.status_code == 200
        bad = await http.get("/mine", headers=[(b"x-api-key", b"\xff\xfe")])
        assert bad.status_code == 401


async def test_probes_need_no_key() -> None:
    async with client(api_key=("one",)) as http:
        for path in PROBES:
            assert (await http.get(path)).status_code == 200


async def test_no_key_no_question() -> None:
    async with client() as http:
        assert (await http.get("/mine")).status_code == 200


def test_keys_are_never_shown() -> None:
    sections = HOST.plugin_sections()
    settings = resolve({}, environ={"MAX_SERVE_API_KEY": "sesame"}, sections=sections)
    text = "\n".join(describe(settings, sections=sections))
    assert "sesame" not in without_secrets(settings, sections).model_dump_json()
    assert "sesame" in settings.model_dump_json()
    assert "sesame" not in text
    assert "(not shown)" in text


@pytest.mark.parametrize("keys", [("",), ("a", ""), ("  ",), (" a",), ("cl\u00e9",), ("a\nb",)])
def test_keys_that_everybody_has_or_nobody_can_send_are_refused(keys: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError, match=f"--api-key: key {len(keys)} "):
        resolve({"api_key": keys}, environ={}, sections=built_in_sections())


def test_a_variable_without_a_key_is_refused() -> None:
    with pytest.raises(SettingsError, match="--api-key: no key is given"):
        resolve({}, environ={"MAX_SERVE_API_KEY": " "}, sections=built_in_sections())
