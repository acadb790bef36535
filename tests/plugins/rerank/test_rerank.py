from __future__ import annotations

from typing import Any

import httpx
import pytest

from maxserve.core.encoders import VectorInfo

pytestmark = pytest.mark.anyio

DOCUMENTS = ["bb", "dddd", "c"]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
async def test_documents_are_put_in_order(client: httpx.AsyncClient, recorder: Any, path: str) -> None:
    response = await client.post(path, json={"model": "acme/tiny", "query": "q", "documents": DOCUMENTS})
    answer = response.json()
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "acme/tiny"
    assert answer["results"] == [
        {"index": 1, "relevance_score": 5.0, "document": {"text": "dddd"}},
        {"index": 0, "relevance_score": 3.0, "document": {"text": "bb"}},
        {"index": 2, "relevance_score": 2.0, "document": {"text": "c"}},
    ]
    assert answer["usage"] == {"prompt_tokens": 10, "total_tokens": 10}
    (stats,) = recorder.stats
    assert (stats.route, stats.status, stats.prompt_tokens) == (path, 200, 10)


async def test_only_the_best_and_without_texts(client: httpx.AsyncClient) -> None:
    body = {"query": "q", "documents": [{"text": "a"}, "bbb"], "top_n": 1, "return_documents": False}
    assert (await client.post("/rerank", json=body)).json()["results"] == [{"index": 1, "relevance_score": 4.0}]
    assert len((await client.post("/rerank", json={**body, "top_n": 0})).json()["results"]) == 2


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize(
    ("one", "two", "scores"),
    [
        ("a", "b", [2]),
        ("a", ["b", "cc"], [2, 3]),
        (["a"], ["b", "cc"], [2, 3]),
        (["a", "bb"], ["ccc", "d"], [4, 3]),
        (["a"], "b", [2]),
    ],
)
async def test_scores(client: httpx.AsyncClient, path: str, one: Any, two: Any, scores: list[int]) -> None:
    answer = (await client.post(path, json={"text_1": one, "text_2": two})).json()
    assert answer["id"].startswith("score-")
    assert (answer["object"], answer["model"]) == ("list", "acme/tiny")
    assert isinstance(answer["created"], int)
    assert answer["data"] == [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)]
    assert answer["usage"]["prompt_tokens"] == sum(scores)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/rerank", {"query": "q", "documents": []}, "documents"),
        ("/rerank", {"documents": ["a"]}, "query"),
        ("/rerank", {"query": "q", "documents": [5]}, "documents[0]"),
        ("/rerank", {"query": "q", "documents": ["a"], "top_n": -1}, "top_n"),
        ("/rerank", {"query": "q", "documents": ["a"] * 2049}, "documents"),
        ("/rerank", {"query": "q", "documents": ["a", "b" * 300]}, "documents[1]"),
        ("/score", {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_2"),
        ("/score", {"text_1": ["a", "b"], "text_2": "a"}, "text_2"),
        ("/score", {"text_1": "a", "text_2": ["b", "c" * 300]}, "text_2[1]"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str) -> None:
    response = await client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_longer_texts_are_cut_where_that_is_asked_for(client: httpx.AsyncClient, engine: Any) -> None:
    body = {"query": "q", "documents": ["b" * 300], "truncate_prompt_tokens": -1}
    assert (await client.post("/rerank", json=body)).json()["results"][0]["relevance_score"] == 256.0


async def test_another_model_and_unknown_fields(client: httpx.AsyncClient) -> None:
    body = {"query": "q", "documents": ["a"]}
    assert (await client.post("/rerank", json={**body, "model": "other"})).status_code == 404
    assert (await client.post("/rerank", json={**body, "poem": 1})).json()["warnings"]


class TestEmbeddings:
    """A model of embeddings compares by the cosine. The scripted vector of a text begins with its length."""

    @pytest.fixture
    def task(self) -> str:
        return "embeddings_generation"

    @pytest.fixture
    def vectors(self) -> VectorInfo:
        return VectorInfo(size=3)

    async def test_cosines(self, client: httpx.AsyncClient, engine: Any) -> None:
        body = {"query": "ab", "documents": ["ab", "zz", "ab"]}
        results = (await client.post("/rerank", json=body)).json()["results"]
        assert {result["index"] for result in results[:2]} == {0, 2}
        assert [result["relevance_score"] for result in results[:2]] == pytest.approx([1, 1])
        assert results[2]["relevance_score"] < results[1]["relevance_score"]
        assert len(engine.encoded[-1].texts) == 2  # each text once

    async def test_a_text_that_is_too_long_is_named(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/score", json={"text_1": "a", "text_2": ["b", "c" * 300]})
        assert response.json()["error"]["param"] == "text_2[1]"


class TestVectorsOfTokens:
    @pytest.fixture
    def task(self) -> str:
        return "embeddings_generation"

    @pytest.fixture
    def vectors(self) -> VectorInfo:
        return VectorInfo(size=3, pooled=False)

    async def test_they_cannot_be_compared(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/rerank", json={"query": "a", "documents": ["b"]})
        assert response.status_code == 400
        assert "--no-pool-embeddings" in response.json()["error"]["message"]


class TestTextGeneration:
    @pytest.fixture
    def task(self) -> str:
        return "text_generation"

    @pytest.fixture
    def vectors(self) -> None:
        return None

    @pytest.mark.parametrize(
        ("path", "body"),
        [("/rerank", {"query": "a", "documents": ["b"]}), ("/v1/score", {"text_1": "a", "text_2": "b"})],
    )
    async def test_it_says_that_it_cannot(self, client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> None:
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_model")
