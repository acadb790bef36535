"""POST /v1/embeddings: read like any request, and refused, as no architecture here gives embeddings yet."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.responses import Response

from maxserve.core.answers.answering import Answering
from maxserve.core.answers.endpoint import Call, Endpoint
from maxserve.core.answers.models import require_served
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ModelInfo
from maxserve.core.server.fields import Body
from maxserve.plugins.openai.completion_body import Prompt


class EmbeddingsBody(Body):
    """Texts or token ids whose embeddings are wanted."""

    model: str | None = None
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


class Embeddings:
    def __init__(self, info: ModelInfo) -> None:
        self._info = info

    async def answer(self, body: EmbeddingsBody, call: Call) -> Response:
        require_served(body.model, self._info)
        message = (
            f"{self._info.name!r} ({self._info.architecture}) generates text and gives no embeddings; "
            "ask a server that has an embedding model"
        )
        raise RequestError(message, param="model", code="unsupported_model")


def embeddings_endpoint(answering: Answering) -> Endpoint[Any]:
    context = answering.context
    run = Embeddings(context.model).answer
    return Endpoint(path="/v1/embeddings", body=EmbeddingsBody, run=run, observers=context.observers)
