from __future__ import annotations

import base64
import dataclasses
import json
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import torch

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.engine import VectorInfo
from maxserve.core.interfaces.errors import EngineError, QueueFullError
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.constraints.sandbox import Sandbox
from maxserve.plugins.api.openai.router import router

pytestmark = pytest.mark.anyio

PATH = "/v1/embeddings"


@pytest.mark.parametrize("given", ["text", ["one", "two"], [1, 2], [[1], [2, 3]]])
async def test_a_model_that_generates_text_says_so(client: httpx.AsyncClient, given: Any) -> None:
    response = await client.post(PATH, json={"model": "acme/tiny", "input": given, "encoding_format": "base64"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("unsupported_model", "model")
    assert "acme/tiny" in error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "input"), ({"input": 5}, "input"), ({"input": "a", "encoding_format": "hex"}, "encoding_format")],
)
async def test_wrong_fields(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post(PATH, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_another_model(client: httpx.AsyncClient) -> None:
    assert (await client.post(PATH, json={"model": "other", "input": "a"})).status_code == 404


@pytest.fixture
def vectors() -> VectorInfo:
    return VectorInfo(size=4, normalized=True, prompts={"query": "Q: ", "plain": ""})


@pytest.fixture
async def encoder(context: ServerContext, vectors: VectorInfo) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server with a model of embeddings; see ScriptedEngine for its vectors."""
    info = dataclasses.replace(context.model, task="embeddings_generation", vectors=vectors)
    served = dataclasses.replace(context, model=info)
    app = create_app(served, [("/", router(served), "builtin.openai")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("encodes", [True, False])
async def test_only_models_that_answer_have_a_process_for_constraints(
    context: ServerContext, vectors: VectorInfo, encodes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Sandbox] = []
    monkeypatch.setattr(Sandbox, "start", lambda self: started.append(self))
    info = dataclasses.replace(context.model, vectors=vectors if encodes else None)
    router(dataclasses.replace(context, model=info))
    assert len(started) == (0 if encodes else 1)


async def data(client: httpx.AsyncClient, given: Any, **fields: Any) -> list[Any]:
    response = await client.post(PATH, json={"model": "acme/tiny", "input": given, **fields})
    assert response.status_code == 200, response.text
    found = response.json()["data"]
    assert [each["index"] for each in found] == list(range(len(found)))
    return [each["embedding"] for each in found]


async def test_an_answer_as_a_whole(encoder: httpx.AsyncClient, recorder: Any) -> None:
    response = await encoder.post(PATH, json={"model": "acme/tiny", "input": ["ab", "c"], "user": "me"})
    answer = response.json()
    assert answer.keys() == {"id", "object", "created", "data", "model", "usage"}
    assert (answer["object"], answer["model"]) == ("list", "acme/tiny")
    assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert [each["object"] for each in answer["data"]] == ["embedding", "embedding"]
    (stats,) = recorder.stats
    assert (stats.route, stats.status, stats.prompt_tokens, stats.finish) == (PATH, 200, 3, "stop")


async def test_every_form_of_input(encoder: httpx.AsyncClient, engine: Any) -> None:
    text = engine.tokenizer.encode("ab", add_special_tokens=True)
    assert await data(encoder, "ab") == await data(encoder, ["ab"]) == await data(encoder, text)
    assert await data(encoder, [text, [5]]) == [[2.0, *text, 0.0], [1.0, 5.0, 0.0, 0.0]]
    assert engine.encoded[-1].texts == (tuple(text), (5,))


async def test_base64_is_the_same_numbers_in_bytes(encoder: httpx.AsyncClient) -> None:
    (coded,) = await data(encoder, [[7, 9]], encoding_format="base64")
    assert struct.unpack("<4f", base64.b64decode(coded)) == (2.0, 7.0, 9.0, 0.0)
    assert await data(encoder, [[7, 9]], encoding_format="float") == [[2.0, 7.0, 9.0, 0.0]]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2"])
@pytest.mark.parametrize("order", ["native", "little", "big"])
async def test_types_and_byte_orders(encoder: httpx.AsyncClient, dtype: str, order: str) -> None:
    """Every number of the scripted vectors is one that all types hold."""
    fields = {"embed_dtype": dtype, "endianness": order}
    (coded,) = await data(encoder, [[7, 12]], encoding_format="base64", **fields)
    assert _numbers(base64.b64decode(coded), dtype, order) == [2.0, 7.0, 12.0, 0.0]
    body = {"input": [[7, 12], [3]], "encoding_format": "bytes", **fields}
    response = await encoder.post(PATH, json=body)
    about = json.loads(response.headers["metadata"])
    assert response.headers["content-type"] == "application/octet-stream"
    assert about["usage"]["prompt_tokens"] == 3
    for item, expected in zip(about["data"], [[2.0, 7.0, 12.0, 0.0], [1.0, 3.0, 0.0, 0.0]], strict=True):
        assert (item["embed_dtype"], item["endianness"], item["shape"]) == (dtype, order, [4])
        assert _numbers(response.content[item["start"] : item["end"]], dtype, order) == expected
    only = await encoder.post(PATH, json={**body, "encoding_format": "bytes_only"})
    assert (only.content, "metadata" in only.headers) == (response.content, False)


def _numbers(data: bytes, dtype: str, order: str) -> list[float]:
    kinds = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
    kind: torch.dtype = kinds.get(dtype) or getattr(torch, dtype)
    size = kind.itemsize
    if order == "big" or (order == "native" and sys.byteorder == "big"):
        data = b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))
    found: list[float] = torch.frombuffer(bytearray(data), dtype=kind).float().tolist()
    return found


@pytest.mark.parametrize("field", ["normalize", "normalized", "use_activation"])
async def test_length_one_or_as_the_model_has_it(encoder: httpx.AsyncClient, engine: Any, field: str) -> None:
    await data(encoder, "ab", **{field: False})
    assert engine.encoded[-1].activation is False
    await data(encoder, "ab", **{field: True})
    assert engine.encoded[-1].activation is True


async def test_a_conversation_is_what_the_chat_template_makes_of_it(encoder: httpx.AsyncClient, engine: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    for fields, text in (
        ({}, "user: Hi\nassistant: Yes"),
        ({"add_generation_prompt": True}, "user: Hi\nassistant: Yes\nassistant:"),
        ({"continue_final_message": True}, "user: Hi\nassistant: Yes"),
    ):
        response = await encoder.post(PATH, json={"messages": messages, **fields})
        assert response.status_code == 200, response.text
        assert engine.tokenizer.decode(engine.encoded[-1].texts[0]) == text


@pytest.mark.parametrize(("kind", "before"), [("query", "Q: "), ("search_query", "Q: ")])
async def test_what_the_texts_are(encoder: httpx.AsyncClient, engine: Any, kind: str, before: str) -> None:
    await data(encoder, "ab", input_type=kind)
    assert engine.tokenizer.decode(engine.encoded[-1].texts[0]) == before + "ab"


async def test_pooling_is_the_same_in_other_words(encoder: httpx.AsyncClient) -> None:
    body = {"input": [[7, 9], [3]], "task": "embed"}
    answer = (await encoder.post("/pooling", json=body)).json()
    assert answer["id"].startswith("pool-")
    assert answer["data"] == [
        {"object": "pooling", "index": 0, "data": [2.0, 7.0, 9.0, 0.0]},
        {"object": "pooling", "index": 1, "data": [1.0, 3.0, 0.0, 0.0]},
    ]
    refused = (await encoder.post("/pooling", json={**body, "task": "token_embed"})).json()["error"]
    assert refused["param"] == "task"
    assert "--no-pool-embeddings" in refused["message"]


async def test_prompts_go_before_texts_but_not_before_ids(encoder: httpx.AsyncClient, engine: Any) -> None:
    await data(encoder, "ab", prompt_name="query")
    assert engine.encoded[-1].texts == (tuple(engine.tokenizer.encode("Q: ab", add_special_tokens=True)),)
    await data(encoder, [[1, 2]], prompt_name="query")
    assert engine.encoded[-1].texts == ((1, 2),)


async def test_longer_texts_are_cut_where_that_is_asked_for(encoder: httpx.AsyncClient, engine: Any) -> None:
    await data(encoder, "a" * 300, truncate_prompt_tokens=-1)
    assert [len(text) for text in engine.encoded[-1].texts] == [256]
    await data(encoder, ["abcdef"], truncate_prompt_tokens=2)
    assert [len(text) for text in engine.encoded[-1].texts] == [2]


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": ["a", ""]}, "input[1]", "input[1]: the text has no tokens"),
        ({"input": [[1], []]}, "input[1]", "no tokens"),
        ({"input": []}, "input", "input must have 1 to 2048 entries, got 0"),
        ({"input": ["a"] * 2049}, "input", "1 to 2048 entries, got 2049"),
        ({"input": ["a", "b" * 257]}, "input[1]", "input[1]: the text has 257 tokens, and this model takes 256"),
        ({"input": ["a", "b" * 100_000]}, "input[1]", "100000 characters, which is at least"),
        ({"input": [[1], [100_000]]}, "input[1]", "token id 100000 is outside the vocabulary"),
        ({"input": "a", "dimensions": 2}, "dimensions", "vectors of 4 numbers and was not trained for others"),
        ({"input": "a", "dimensions": 0}, "dimensions", "greater than or equal to 1"),
        ({"input": "a", "prompt_name": "x"}, "prompt_name", "it has plain, query"),
        ({"input": "a", "input_type": "passage"}, "input_type", "it has plain, query"),
        ({"input": "a", "embed_dtype": "float16"}, "embed_dtype", "for the encoding_format base64"),
        ({"input": "a", "endianness": "big"}, "endianness", "for the encoding_format base64"),
        ({"input": "a", "embed_dtype": "int4", "encoding_format": "base64"}, "embed_dtype", "float16"),
        ({"input": "a", "normalize": True, "normalized": False}, "normalize", "contradict"),
        ({"input": "a", "messages": []}, "input", "or messages"),
        ({"input": "a", "task": "retrieval.query"}, "task", "not supported"),
        ({"input": "a", "late_chunking": True}, "late_chunking", "not supported"),
        ({"input": "a", "embedding_type": "ubinary"}, "embedding_type", "not supported"),
        ({"input": "a", "mm_processor_kwargs": {"size": 1}}, "mm_processor_kwargs", "not supported"),
        ({"input": "a", "padding": "max_length"}, "padding", "not supported"),
        ({"input": "a", "truncate": False, "truncate_prompt_tokens": 4}, "truncate", "give one"),
        ({"input": "a", "truncate_prompt_tokens": 300}, "truncate_prompt_tokens", "1 to 256, is expected"),
    ],
)
async def test_refusals(encoder: httpx.AsyncClient, fields: Any, param: str, message: str) -> None:
    response = await encoder.post(PATH, json=fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert message in error["message"]


async def test_more_texts_than_the_server_ever_takes(encoder: httpx.AsyncClient, engine: Any) -> None:
    engine.capacity = 2
    response = await encoder.post(PATH, json={"input": ["a", "b", "c"]})
    assert response.status_code == 400
    assert "the server takes 2 texts at once" in response.json()["error"]["message"]


async def test_a_full_queue_and_a_failure(encoder: httpx.AsyncClient, engine: Any) -> None:
    engine.refusal = QueueFullError("full")
    response = await encoder.post(PATH, json={"input": "a"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    engine.refusal, engine.failure = None, EngineError("it broke")
    assert (await encoder.post(PATH, json={"input": "a"})).status_code == 500
    assert engine.active == set()


async def test_unknown_fields_are_told(encoder: httpx.AsyncClient) -> None:
    answer = (await encoder.post(PATH, json={"input": "a", "poem": 1})).json()
    assert answer["warnings"] == ["the field 'poem' is not known and was ignored"]


class TestMatryoshka:
    @pytest.fixture
    def vectors(self) -> VectorInfo:
        return VectorInfo(size=4, sizes=(), normalized=True)

    async def test_vectors_are_cut_and_normalised_again(self, encoder: httpx.AsyncClient) -> None:
        (vector,) = await data(encoder, [[4, 9]], dimensions=2)  # of [2, 4, 9, 0]
        assert vector == pytest.approx([2 / 20**0.5, 4 / 20**0.5])
        assert await data(encoder, [[4, 9]], dimensions=4) == [[2.0, 4.0, 9.0, 0.0]]


async def test_what_the_model_can_is_told(encoder: httpx.AsyncClient) -> None:
    (card,) = (await encoder.get("/v1/models")).json()["data"]
    capabilities = card["capabilities"]["embeddings"]
    assert card["capabilities"].keys() == {"embeddings"}
    assert {"input", "dimensions", "encoding_format", "truncate_prompt_tokens"} <= set(capabilities["fields"])
    assert (capabilities["size"], capabilities["dimensions"], capabilities["pooled"]) == (4, None, True)
    assert capabilities["prompts"] == ["plain", "query"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "stream": True}),
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/responses", {"input": "Hi"}),
    ],
)
async def test_no_text_is_generated(encoder: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
    response = await encoder.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "unsupported_model", "model")
    assert "gives embeddings and generates no text; ask /v1/embeddings" in error["message"]


async def test_a_scorer_gives_no_embeddings(context: ServerContext) -> None:
    info = dataclasses.replace(context.model, task="scoring", vectors=VectorInfo())
    served = dataclasses.replace(context, model=info)
    app = create_app(served, [("/", router(served), "builtin.openai")])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        response = await client.post(PATH, json={"input": "a"})
        assert response.status_code == 400
        assert "gives scores and no embeddings; ask /v1/rerank or /score" in response.json()["error"]["message"]
        (card,) = (await client.get("/v1/models")).json()["data"]
        assert card["capabilities"] == {"scores": {"max_tokens": 256}}
