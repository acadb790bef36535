"""Routes that rank documents and score pairs of texts, in the words of Jina, Cohere, Voyage, TEI and vLLM."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="rerank",
        build="maxserve.plugins.embeddings.rerank.router:router",
        prefix="/",
        default=True,
        summary="/rerank, /v1/rerank, /v2/rerank, /reranking, /v1/reranking, /score, /v1/score",
    )
