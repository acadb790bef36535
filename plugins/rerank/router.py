"""Which paths rank and score, and by what."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from maxserve.core.answers.embedder import Embedder, require_vectors
from maxserve.core.answers.endpoint import Call, Endpoint
from maxserve.core.answers.models import require_served
from maxserve.core.answers.unsupported import warnings_of
from maxserve.core.interfaces import ServerContext
from maxserve.plugins.rerank.bodies import RerankBody, ScoreBody

RERANK = ("/rerank", "/v1/rerank", "/v2/rerank")
SCORE = ("/score", "/v1/score")


class Ranking:
    """Both wordings over the scores of pairs."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def rerank(self, body: RerankBody, call: Call) -> Response:
        embedder, warnings = self._checked(body)
        texts = body.texts
        embedder.check_count(len(texts), "documents")
        names = [("query", f"documents[{place}]") for place in range(len(texts))]
        cut = embedder.inputs.cut(body.truncate_prompt_tokens)
        scores = await embedder.scores([(body.query, text) for text in texts], names, call.meter, cut=cut)
        best = sorted(range(len(texts)), key=lambda place: -scores[place])[: body.top_n or None]
        results: list[dict[str, Any]] = [{"index": place, "relevance_score": scores[place]} for place in best]
        if body.return_documents is not False:
            for result in results:
                result["document"] = {"text": texts[result["index"]]}
        answer = {"id": f"rerank-{uuid4().hex}", "model": self._context.model.name, "results": results}
        return self._answered(answer, warnings, call)

    async def score(self, body: ScoreBody, call: Call) -> Response:
        embedder, warnings = self._checked(body)
        pairs = body.pairs
        embedder.check_count(len(pairs), "text_2")
        cut = embedder.inputs.cut(body.truncate_prompt_tokens)
        scores = await embedder.scores(pairs, body.names, call.meter, cut=cut)
        data = [{"index": place, "object": "score", "score": score} for place, score in enumerate(scores)]
        head = {"id": f"score-{uuid4().hex}", "object": "list", "created": int(time.time())}
        return self._answered({**head, "model": self._context.model.name, "data": data}, warnings, call)

    def _checked(self, body: RerankBody | ScoreBody) -> tuple[Embedder, list[str]]:
        context = self._context
        require_served(body.model, context.model)
        embedder = require_vectors(context)
        return embedder, warnings_of(body.unknown(), strict=context.settings.server.strict_fields)

    @staticmethod
    def _answered(answer: dict[str, Any], warnings: list[str], call: Call) -> Response:
        tokens = call.meter.prompt_tokens
        told = {**answer, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
        call.meter.finish(200)
        content = msgspec.json.encode({**told, "warnings": warnings} if warnings else told)
        return Response(content, media_type="application/json")


def router(context: ServerContext) -> APIRouter:
    routes, ranking = APIRouter(), Ranking(context)
    for path in RERANK:
        Endpoint(path=path, body=RerankBody, run=ranking.rerank, observers=context.observers).add_to(routes)
    for path in SCORE:
        Endpoint(path=path, body=ScoreBody, run=ranking.score, observers=context.observers).add_to(routes)
    return routes
