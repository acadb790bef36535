from __future__ import annotations

from typing import Any

import httpx
import pytest

from maxserve.interfaces.request import Image
from maxserve.plugins.api.openai.rendering import _features

pytestmark = pytest.mark.anyio

RENDER = "/v1/completions/render"
RENDER_CHAT = "/v1/chat/completions/render"


async def test_a_conversation_has_the_tokens_that_chat_gives_it(
    client: httpx.AsyncClient, engine: Any, chat: Any
) -> None:
    body = chat(chat_template_kwargs={"preface": "# "}, max_tokens=3, request_id="mine")
    rendered = (await client.post(RENDER_CHAT, json=body)).json()
    assert engine.requests == []  # nothing was asked of the model
    await client.post("/v1/chat/completions", json=body)
    assert rendered == {
        "request_id": "chatcmpl-mine",
        "model": "acme/tiny",
        "token_ids": list(engine.requests[-1].prompt),
        "features": None,
    }


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "Grüße 🙂"},
        {"prompt": ["ab", "cde"], "n": 2},
        {"prompt": [5, 6, 7]},
        {"prompt": [[5, 6], [7]]},
        {"prompt": "abcdef", "truncate_prompt_tokens": 2, "truncation_side": "right"},
        {"prompt": "ab", "add_special_tokens": False},
    ],
)
async def test_prompts_have_the_tokens_that_completions_give_them(
    client: httpx.AsyncClient, engine: Any, fields: dict[str, Any]
) -> None:
    rendered = (await client.post(RENDER, json=fields)).json()
    await client.post("/v1/completions", json=fields)
    asked = [list(request.prompt) for request in engine.requests][:: fields.get("n", 1)]
    assert [each["token_ids"] for each in rendered] == asked
    assert len({each["request_id"] for each in rendered}) == len(rendered)
    assert all(each["request_id"].startswith("cmpl-") for each in rendered)


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        (RENDER, {}, 400, "prompt"),
        (RENDER, {"prompt": "a" * 200_000}, 400, "prompt"),
        (RENDER, {"prompt": "a", "model": "x"}, 404, "model"),
        (RENDER_CHAT, {"prompt": "a"}, 400, "messages"),
        (RENDER_CHAT, {"messages": [{"role": "<wizard>", "content": "x"}]}, 400, "messages[0].role"),
        (RENDER_CHAT, {"messages": [{"role": "user", "content": "x"}], "model": "x"}, 404, "model"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int, param: str) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == status, response.text
    assert response.json()["error"]["param"] == param


async def test_what_is_not_known_is_warned_of(client: httpx.AsyncClient, chat: Any) -> None:
    line = ["the field 'topp' is not known and was ignored"]
    assert (await client.post(RENDER_CHAT, json=chat(topp=1))).json()["warnings"] == line
    assert (await client.post(RENDER, json={"prompt": "a", "topp": 1})).json()[0]["warnings"] == line


async def test_images_are_told_by_digest_and_place() -> None:
    images = [Image(digest=bytes([n] * 4), start=3 * n, length=2, token=9, tensors={}) for n in (1, 2)]
    assert _features(images) == {
        "mm_hashes": {"image": ["01010101", "02020202"]},
        "mm_placeholders": {"image": [{"offset": 3, "length": 2}, {"offset": 6, "length": 2}]},
    }
