from __future__ import annotations

import httpx
import pytest

import maxserve.plugins.api.openai as declared
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.interfaces.served_names import ServedName
from maxserve.testing.scripted import ScriptedEngine

pytestmark = pytest.mark.anyio

CARD = {"id": "acme/tiny", "object": "model", "created": 1_700_000_000, "owned_by": "maxserve", "max_model_len": 256}
CARD |= {"root": "maxserve/demo", "parent": None, "permission": []}


async def test_list(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    [card] = listed.pop("data")
    assert (listed, {name: card[name] for name in CARD}) == ({"object": "list"}, CARD)


@pytest.mark.parametrize("name", ["acme/tiny", "tiny", "acme%2Ftiny"])
async def test_one(client: httpx.AsyncClient, name: str) -> None:
    card = (await client.get(f"/v1/models/{name}")).json()
    assert {name: card[name] for name in CARD} == CARD


async def test_anthropics_clients_get_its_form(client: httpx.AsyncClient) -> None:
    headers = {"anthropic-version": "2023-06-01"}
    listed = (await client.get("/v1/models?limit=20", headers=headers)).json()
    [card] = listed.pop("data")
    assert listed == {"has_more": False, "first_id": "acme/tiny", "last_id": "acme/tiny"}
    assert (card["type"], card["id"], card["created_at"]) == ("model", "acme/tiny", "2023-11-14T22:13:20Z")
    assert (await client.get("/v1/models/acme/tiny", headers=headers)).json() == card


async def test_another(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models/acme/huge")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/version")).json()["version"].count(".") >= 1


async def test_schema_shows_the_samplers_fields(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()
    body = schema["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "temperature", "top_p", "min_p", "stop", "seed"} <= body["properties"].keys()
    assert body["required"] == ["messages"]
    assert "$ref" not in str(body)


def test_declaration() -> None:
    [routes] = declared.maxserve_routes()
    assert (routes.name, routes.prefix, routes.build) == ("openai", "/", "maxserve.plugins.api.openai.router:router")


async def test_adapters_answer_under_their_names(
    client: httpx.AsyncClient, context: ServerContext, engine: ScriptedEngine
) -> None:
    """Also one that came while the server runs; the model itself has none."""
    context.names.add(ServedName(name="polite", adapter="polite", parent="acme/tiny"))
    cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
    assert {id: (card["parent"], card["root"]) for id, card in cards.items()} == {
        "acme/tiny": (None, "maxserve/demo"),
        "polite": ("acme/tiny", "polite"),
    }
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    paths = (
        ("/v1/chat/completions", chat),
        ("/v1/completions", {"prompt": ["Hi", "Ho"], "max_tokens": 3}),
        ("/v1/responses", {"input": "Hi", "max_output_tokens": 3}),
    )
    for path, body in paths:
        for name in ("polite", "acme/tiny"):
            engine.requests.clear()
            response = await client.post(path, json={**body, "model": name})
            assert response.status_code == 200, response.text
            assert response.json()["model"] == name
            assert {request.adapter for request in engine.requests} == {"polite" if name == "polite" else ""}
    context.names.remove("polite")
    assert (await client.post(paths[0][0], json={**chat, "model": "polite"})).status_code == 404
