"""Embeddings and scores over HTTP, asked for with OpenAI's client, from servers of their own."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from sentence_transformers import CrossEncoder, SentenceTransformer

from maxserve import LLM
from maxserve.testing.live import LiveServer
from tests.plugins.lora.test_encoders import make as make_adapters

TEXTS = ["the quick brown fox", "jumps", "over the lazy dog while the early bird catches the worm", "a b c"]


@pytest.fixture(scope="module")
def embedder(encoder_folder: Callable[..., Path], serving: Any) -> Iterator[LiveServer]:
    options = ("--model", str(encoder_folder()), "--served-model-name", "tiny", "--max-batch-input-tokens", "64")
    with serving(*options, "--max-queue-size", "200", "--enable-prefix-caching") as server:
        yield server


@pytest.fixture
def client(embedder: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=embedder.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client(client: openai.OpenAI, encoder_folder: Callable[..., Path]) -> None:
    """It asks for base64 unless told otherwise."""
    expected = SentenceTransformer(str(encoder_folder()), device="cpu").encode(TEXTS, show_progress_bar=False)
    for options in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="tiny", input=TEXTS, **options)  # type: ignore[call-overload]
        assert [each.index for each in answer.data] == [0, 1, 2, 3]
        np.testing.assert_allclose([each.embedding for each in answer.data], expected, atol=1e-5)
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == 6 + 3 + 13 + 5
    coded: Any = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="base64").data[0].embedding
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(coded), "<f4"), expected[0], atol=1e-5)


def test_refusals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="gives embeddings and generates no text"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(openai.BadRequestError, match="was not trained for others"):
        client.embeddings.create(model="tiny", input="a", dimensions=16)
    with pytest.raises(openai.BadRequestError, match="has 52 tokens, and this model takes 48") as caught:
        client.embeddings.create(model="tiny", input=["a", "fox " * 50])
    assert (caught.value.param, caught.value.code) == ("input[1]", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError, match="the server takes 456 texts at once"):
        client.embeddings.create(model="tiny", input=["a"] * 457)


def test_the_model_is_listed_as_what_it_is(client: openai.OpenAI, embedder: LiveServer) -> None:
    card = client.models.retrieve("tiny").model_dump()
    assert card["max_model_len"] == 48
    assert card["capabilities"]["embeddings"]["size"] == 32
    assert "is served for the task embeddings_generation" in embedder.output
    assert "these options have no effect: --enable-prefix-caching" in embedder.output


def test_many_at_once_and_clients_that_leave(embedder: LiveServer) -> None:
    """Each client gets its own vectors, also beside those that leave."""

    async def ask(client: httpx.AsyncClient, number: int) -> list[Any]:
        texts = [TEXTS[(number + place) % 4] for place in range(number % 7 + 1)]
        response = await client.post("/v1/embeddings", json={"input": texts})
        assert response.status_code == 200, response.text
        return [each["embedding"] for each in response.json()["data"]]

    async def main() -> None:
        async with httpx.AsyncClient(base_url=embedder.url, timeout=60) as client:
            alone = [(await ask(client, number * 7))[0] for number in range(4)]
            leaving = [asyncio.ensure_future(ask(client, number)) for number in range(8)]
            await asyncio.sleep(0.01)
            for each in leaving:
                each.cancel()
            for number, vectors in enumerate(await asyncio.gather(*(ask(client, number) for number in range(16)))):
                expected = [alone[(number + place) * 3 % 4] for place in range(number % 7 + 1)]
                np.testing.assert_allclose(vectors, expected, atol=1e-5)

    asyncio.run(main())
    metrics = httpx.get(embedder.url + "/metrics").text
    assert 'vllm:prompt_tokens_total{model_name="tiny"}' in metrics
    assert 'vllm:num_requests_running{model_name="tiny"} 0.0' in metrics


def test_scores_and_ranks(serving: Any, encoder_folder: Callable[..., Path]) -> None:
    folder = encoder_folder("bert", labels=1)
    with serving("--model", str(folder)) as server:
        expected = CrossEncoder(str(folder), device="cpu").predict([(TEXTS[0], text) for text in TEXTS])
        body = {"query": TEXTS[0], "documents": TEXTS}
        results = httpx.post(server.url + "/v1/rerank", json=body).json()["results"]
        assert [result["index"] for result in results] == np.argsort(-expected).tolist()
        np.testing.assert_allclose([result["relevance_score"] for result in results], -np.sort(-expected), atol=1e-5)
        scores = httpx.post(server.url + "/score", json={"text_1": TEXTS[0], "text_2": TEXTS}).json()["data"]
        np.testing.assert_allclose([each["score"] for each in scores], expected, atol=1e-5)
        refused = httpx.post(server.url + "/v1/embeddings", json={"input": "a"})
        assert refused.status_code == 400
        assert "gives scores and no embeddings" in refused.text


def test_adapters_are_model_names(serving: Any, encoder_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Of vectors, of ranks by these, and where one is loaded when it is first asked for."""
    folder = encoder_folder()
    adapters = make_adapters(folder, tmp_path, {"one": ["query", "value"], "two": ["key"]})
    options = ("--model", str(folder), "--served-model-name", "tiny", "--enable-lora", "--lora-dir", str(tmp_path))
    with serving(*options, "--lora-paths", f"one={adapters['one']}") as server:
        vectors = {}
        for name in ("tiny", "one", "two"):
            answer = httpx.post(server.url + "/v1/embeddings", json={"model": name, "input": TEXTS}, timeout=60).json()
            assert answer["model"] == name
            vectors[name] = np.array([each["embedding"] for each in answer["data"]])
            llm = LLM(str(folder), lora=adapters.get(name))
            np.testing.assert_allclose(vectors[name], llm.encode(TEXTS), atol=1e-5)
        assert np.abs(vectors["one"] - vectors["two"]).max() > 1e-3
        assert np.abs(vectors["one"] - vectors["tiny"]).max() > 1e-3
        listed = httpx.get(server.url + "/v1/models").json()["data"]
        assert {each["id"]: each["parent"] for each in listed} == {"tiny": None, "one": "tiny", "two": "tiny"}
        ranked = httpx.post(
            server.url + "/rerank", json={"model": "one", "query": TEXTS[0], "documents": TEXTS}, timeout=60
        ).json()
        expected = vectors["one"] @ vectors["one"][0]
        by_index = {each["index"]: each["relevance_score"] for each in ranked["results"]}
        np.testing.assert_allclose([by_index[i] for i in range(len(TEXTS))], expected, atol=1e-5)
        assert ranked["model"] == "one"
        refused = httpx.post(server.url + "/v1/embeddings", json={"model": "three", "input": "a"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
