"""The routes that rank documents and score pairs of texts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedName
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.embeddings.embedder import Embedder, ScoreOptions, require_vectors, served_name
from maxserve.plugins.embeddings.rerank.bodies import RerankBody, ScoreBody, text_of

RERANK = ("/rerank", "/v1/rerank", "/v2/rerank", "/reranking", "/v1/reranking")
SCORE = ("/score", "/v1/score")


class Ranking:
    """Both dialects over the scores of pairs."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def rerank(self, body: RerankBody, call: Call) -> Response:
        embedder, served, warnings = await self._checked(body)
        texts, query = body.document_texts, text_of(body.query)
        embedder.check_count(len(texts), body.field)
        names = [("query", f"{body.field}[{index}]") for index in range(len(texts))]
        pairs = [(query, text) for text in texts]
        scores = await embedder.scores(pairs, names, call.meter, _options(body, embedder, served))
        best = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.most]
        if body.texts is not None:
            return _finished([_tei_result(index, scores, texts, body) for index in best], call)
        results: list[dict[str, Any]] = [{"index": index, "relevance_score": scores[index]} for index in best]
        if body.return_documents is not False:
            for result in results:
                result["document"] = {"text": texts[result["index"]]}
        answer = {"id": f"rerank-{uuid4().hex}", "model": served.name, "results": results}
        return self._answered({**answer, "meta": _meta(call)}, warnings, call)

    async def score(self, body: ScoreBody, call: Call) -> Response:
        embedder, served, warnings = await self._checked(body)
        pairs = body.pairs
        embedder.check_count(len(pairs), body.sides[1])
        scores = await embedder.scores(pairs, body.names, call.meter, _options(body, embedder, served))
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        head = {"id": f"score-{uuid4().hex}", "object": "list", "created": int(time.time())}
        return self._answered({**head, "model": served.name, "data": data}, warnings, call)

    async def _checked(self, body: RerankBody | ScoreBody) -> tuple[Embedder, ServedName, list[str]]:
        context = self._context
        served = await served_name(context, body.model)
        embedder = require_vectors(context)
        return embedder, served, body.warnings(strict=context.config(AnswerOptions).strict_fields)

    @staticmethod
    def _answered(answer: dict[str, Any], warnings: list[str], call: Call) -> Response:
        tokens = call.meter.prompt_tokens
        answer = {**answer, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        return _finished({**answer, "warnings": warnings} if warnings else answer, call)


def _finished(answer: Any, call: Call) -> Response:
    call.meter.finish(200)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _options(body: RerankBody | ScoreBody, embedder: Embedder, served: ServedName) -> ScoreOptions:
    return ScoreOptions(
        truncation=body.truncated(embedder.inputs),
        query_tokens=body.max_tokens_per_query,
        document_tokens=body.max_tokens_per_doc,
        activation=body.activation,
        adapter=served.adapter,
    )


def _tei_result(index: int, scores: Sequence[float], texts: Sequence[str], body: RerankBody) -> dict[str, Any]:
    """A result as TEI words it."""
    result = {"index": index, "score": scores[index]}
    return {**result, "text": texts[index]} if body.return_text else result


def _meta(call: Call) -> dict[str, Any]:
    """What Cohere's clients read of an answer."""
    return {"api_version": {"version": "2"}, "tokens": {"input_tokens": call.meter.prompt_tokens}}


def router(context: ServerContext) -> APIRouter:
    routes, ranking = APIRouter(), Ranking(context)
    for path in RERANK:
        Endpoint(path=path, body=RerankBody, run=ranking.rerank, observers=context.observers).add_to(routes)
    for path in SCORE:
        Endpoint(path=path, body=ScoreBody, run=ranking.score, observers=context.observers).add_to(routes)
    return routes
