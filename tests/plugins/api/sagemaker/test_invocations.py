from __future__ import annotations

import dataclasses
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.engine import VectorInfo
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.sagemaker.router import router

pytestmark = pytest.mark.anyio

PATH = "/invocations"
MESSAGES = [{"role": "user", "content": "Hi"}]


async def test_messages_are_a_chat(client: httpx.AsyncClient, recorder: Any) -> None:
    answer = (await client.post(PATH, json={"messages": MESSAGES})).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"] == "Hello there, friend."
    assert [stats.route for stats in recorder.stats] == [PATH]


async def test_a_prompt_is_a_completion(client: httpx.AsyncClient) -> None:
    answer = (await client.post(PATH, json={"prompt": ["a", "b"], "max_tokens": 5})).json()
    assert answer["object"] == "text_completion"
    assert [choice["text"] for choice in answer["choices"]] == ["Hello", "Hello"]


async def test_streams(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json={"prompt": "a", "max_tokens": 5, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("body", [{}, {"messages": MESSAGES, "prompt": "a"}, {"messages": None, "prompt": None}])
async def test_one_of_both(client: httpx.AsyncClient, body: Any) -> None:
    response = await client.post(PATH, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["message"].startswith("give one of messages, prompt")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 100_000, 400, "too_many_values"),
        (b'{"prompt": "a", "model": "other"}', 404, "model_not_found"),
    ],
)
async def test_errors_are_those_of_openai(client: httpx.AsyncClient, body: bytes, status: int, code: str) -> None:
    response = await client.post(PATH, content=body)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


async def test_another_content_type_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, content=b'{"prompt": "a"}', headers={"Content-Type": "text/plain"})
    assert response.status_code == 415


async def test_the_schema_has_both_bodies(client: httpx.AsyncClient) -> None:
    schema = (await client.get("/openapi.json")).json()["paths"][PATH]["post"]["requestBody"]
    either = schema["content"]["application/json"]["schema"]["anyOf"]
    assert ["messages" in each["properties"] for each in either] == [True, False]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"input": ["a", "b"]}, "list"),
        ({"query": "a", "documents": ["b"]}, "results"),
        ({"queries": "a", "documents": ["b"]}, "list"),
        ({"text_1": "a", "text_2": "b"}, "list"),
        ({"data_1": "a", "data_2": "b"}, "list"),
    ],
)
async def test_models_of_embeddings(context: ServerContext, engine: Any, body: dict[str, Any], kind: str) -> None:
    engine.size = 4
    info = dataclasses.replace(context.model, task="embeddings_generation", vectors=VectorInfo(size=4))
    served = dataclasses.replace(context, model=info)
    app = create_app(served, [("/", router(served), "builtin.sagemaker")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as encoder:
        answer = (await encoder.post(PATH, json=body)).json()
        assert answer.get("object") == kind or kind in answer
        error = (await encoder.post(PATH, json={"prompt": "a"})).json()["error"]
    assert error["message"].startswith("give one of input, messages, query")
