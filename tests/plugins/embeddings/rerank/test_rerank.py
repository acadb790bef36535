from __future__ import annotations

from typing import Any

import httpx
import pytest

from maxserve.core.interfaces.engine import VectorInfo

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
        ("/score", {"queries": "a", "text_2": "b"}, "queries"),
        ("/score", {"queries": "a", "documents": "b", "items": "c"}, "documents"),
        ("/score", {}, "queries"),
        ("/score", {"queries": "a", "documents": ["b", "c" * 300]}, "documents[1]"),
        ("/score", {"queries": "a", "documents": "b", "label_token_ids": [1, 2]}, "label_token_ids"),
        ("/score", {"queries": "a", "documents": {"content": [{"type": "image_url"}]}}, "documents"),
        ("/rerank", {"query": "q", "texts": ["a"], "documents": ["a"]}, "documents"),
        ("/rerank", {"query": "q", "texts": ["a", "b" * 300]}, "texts[1]"),
        ("/rerank", {"query": "q", "documents": ["a"], "rank_fields": ["title"]}, "rank_fields"),
        ("/rerank", {"query": "q", "documents": ["a"], "instruct": "find"}, "instruct"),
        ("/rerank", {"query": "q", "documents": ["a"], "priority": 3}, "priority"),
        ("/rerank", {"query": "q", "documents": ["a"], "max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        ("/rerank", {"query": "q", "documents": ["a"], "raw_scores": True, "use_activation": True}, "raw_scores"),
        (
            "/rerank",
            {"query": "q", "documents": ["a"], "truncate": "START", "truncation_side": "right"},
            "truncation_side",
        ),
        ("/score", {"text_1": "a", "text_2": ["b", "c" * 300]}, "text_2[1]"),
        ("/score", {"text_1": "a", "text_2": []}, "text_2"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, path: str, body: dict[str, Any], param: str | None) -> None:
    response = await client.post(path, json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_longer_texts_are_cut_where_that_is_asked_for(client: httpx.AsyncClient, engine: Any) -> None:
    body = {"query": "q", "documents": ["b" * 300], "truncate_prompt_tokens": -1}
    assert (await client.post("/rerank", json=body)).json()["results"][0]["relevance_score"] == 256.0


WORDS = [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]


@pytest.mark.parametrize(("one", "two"), WORDS)
async def test_the_sides_of_a_score_have_several_names(client: httpx.AsyncClient, one: str, two: str) -> None:
    parts = {"content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]}
    answer = (await client.post("/score", json={one: "a", two: ["bb", {"text": "c"}, parts]})).json()
    assert [each["score"] for each in answer["data"]] == [3, 2, 4]


@pytest.mark.parametrize(("more", "text"), [({}, {}), ({"return_text": True}, {"text": "dddd"})])
async def test_the_form_of_tei(client: httpx.AsyncClient, more: dict[str, Any], text: dict[str, str]) -> None:
    body = {"query": "q", "texts": ["bb", "dddd"], "raw_scores": False, **more}
    results = (await client.post("/rerank", json=body)).json()
    assert results[0] == {"index": 1, "score": 5.0, **text}
    assert [result["index"] for result in results] == [1, 0]


async def test_what_cohere_reads(client: httpx.AsyncClient) -> None:
    body = {"model": "acme/tiny", "query": "q", "documents": DOCUMENTS, "top_n": 2, "max_tokens_per_doc": 3}
    answer = (await client.post("/v2/rerank", json=body)).json()
    assert [(each["index"], each["relevance_score"]) for each in answer["results"]] == [(1, 4.0), (0, 3.0)]
    assert answer["meta"] == {"api_version": {"version": "2"}, "tokens": {"input_tokens": 9}}


@pytest.mark.parametrize(
    ("fields", "activation"),
    [
        ({}, True),
        ({"raw_scores": True}, False),
        ({"raw_scores": False}, True),
        ({"use_activation": False}, False),
        ({"use_activation": True}, True),
    ],
)
async def test_scores_before_the_last_function(
    client: httpx.AsyncClient, engine: Any, fields: dict[str, Any], activation: bool
) -> None:
    assert (await client.post("/rerank", json={"query": "q", "documents": ["a"], **fields})).status_code == 200
    assert engine.encoded[-1].activation is activation


@pytest.mark.parametrize(
    ("fields", "kept"),
    [
        ({"truncate_prompt_tokens": 4}, "abyy"),
        ({"truncate_prompt_tokens": 4, "truncation_side": "left"}, "deyz"),
        ({"truncate_prompt_tokens": 4, "truncation_direction": "Left"}, "deyz"),
        ({"max_tokens_per_doc": 2}, "abcdeyy"),
        ({"max_tokens_per_query": 2}, "abyyyz"),
    ],
)
async def test_where_texts_are_cut(client: httpx.AsyncClient, engine: Any, fields: dict[str, Any], kept: str) -> None:
    await client.post("/rerank", json={"query": "abcde", "documents": ["yyyz"], **fields})
    ids = engine.encoded[-1].texts[0]
    assert engine.tokenizer.decode(ids) == kept


@pytest.mark.parametrize("fields", [{"truncate": True}, {"truncate": "END"}, {"truncation": True}])
async def test_cut_to_what_the_model_takes(client: httpx.AsyncClient, engine: Any, fields: dict[str, Any]) -> None:
    body = {"query": "q", "documents": ["b" * 300]}
    assert (await client.post("/rerank", json={**body, **fields})).status_code == 200
    assert len(engine.encoded[-1].texts[0]) == 256
    assert (await client.post("/rerank", json={**body, "truncate": False})).status_code == 400


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
