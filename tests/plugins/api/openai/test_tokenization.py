from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.openai.router import router

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_there_and_back(client: httpx.AsyncClient, engine: Any, prefix: str) -> None:
    text = "Grüße 🙂<|turn|>"
    answer = (await client.post(f"{prefix}/tokenize", json={"prompt": text})).json()
    assert answer["tokens"] == engine.tokenizer.encode(text, add_special_tokens=True)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 256
    assert answer["token_strs"] is None
    back = await client.post(f"{prefix}/detokenize", json={"tokens": answer["tokens"]})
    assert back.json() == {"prompt": text}


async def test_a_conversation_has_the_tokens_that_chat_gives_it(
    client: httpx.AsyncClient, engine: Any, chat: Any
) -> None:
    body = chat(chat_template_kwargs={"preface": "# "})
    answer = await client.post("/tokenize", json={**body, "return_token_strs": True})
    await client.post("/v1/chat/completions", json=body)
    assert answer.json()["tokens"] == list(engine.requests[-1].prompt)
    assert answer.json()["token_strs"][:2] == ["#", "Ġ"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"messages": [{"role": "<wizard>", "content": "x"}]}, "messages[0].role"),
        ("/tokenize", {"prompt": "abc", "truncate_prompt_tokens": 300}, "truncate_prompt_tokens"),
        ("/tokenize", {"prompt": "a" * 200_000}, "prompt"),
        ("/detokenize", {"tokens": [5, 100_000]}, "tokens[1]"),
        ("/detokenize", {"tokens": [-1]}, "tokens[0]"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str | None) -> None:
    response = await client.post(path, json=body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_unknown_model_and_fields(client: httpx.AsyncClient) -> None:
    assert (await client.post("/tokenize", json={"model": "x", "prompt": "a"})).status_code == 404
    answer = await client.post("/tokenize", json={"prompt": "a", "prompd": 1})
    assert answer.json()["warnings"] == ["the field 'prompd' is not known and was ignored"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
async def test_strict_fields(context: ServerContext, path: str) -> None:
    strict = dataclasses.replace(context, sections={AnswerOptions: AnswerOptions(strict_fields=True)})
    app = create_app(strict, [("/", router(strict), "builtin.openai")])
    body = {"messages": [{"role": "user", "content": "Hi"}]} if "chat" in path else {"prompt": "Hi"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        assert (await http.post(path, json=body)).status_code == 200
        refused = await http.post(path, json={**body, "topp": 0.5})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "topp"
    assert "--strict-fields" in refused.json()["error"]["message"]


async def test_tokens_of_a_text_that_is_cut(client: httpx.AsyncClient, engine: Any) -> None:
    for fields, kept in (({}, "ef"), ({"truncation_side": "right"}, "ab")):
        answer = (
            await client.post("/tokenize", json={"prompt": "abcdef", "truncate_prompt_tokens": 2, **fields})
        ).json()
        assert engine.tokenizer.decode(answer["tokens"]) == kept


async def test_the_tokenizers_own_configuration(context: Any, tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T", "model_max_length": 9}))
    served = dataclasses.replace(context, model=dataclasses.replace(context.model, path=str(tmp_path)))
    app = create_app(served, [("/", router(served), "builtin.openai")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        answer = (await client.get("/tokenizer_info")).json()
    assert (answer["tokenizer_class"], answer["model_max_length"]) == ("T", 9)
    assert (answer["bos_token"], answer["eos_token"]) == ("<s>", "</s>")
    assert "m.role" in answer["chat_template"]
