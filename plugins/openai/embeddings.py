"""POST /v1/embeddings: a vector for each text."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from pydantic import Field
from starlette.responses import Response

from maxserve.core.answers.embedder import Embedder, require_embeddings
from maxserve.core.answers.endpoint import Call, Endpoint
from maxserve.core.answers.models import require_served
from maxserve.core.answers.unsupported import warnings_of
from maxserve.core.interfaces import ServerContext
from maxserve.core.model.encoder_input import Input
from maxserve.core.model.vectors import Vector
from maxserve.core.server.fields import Body
from maxserve.plugins.openai.completion_body import Prompt

LITTLE = np.dtype("<f4")


class EmbeddingsBody(Body):
    """Texts or token ids whose embeddings are wanted."""

    model: str | None = None
    input: Prompt
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="numbers, or the bytes of float32, the lowest first, in base64"
    )
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="cut vectors to so many numbers, where the model was trained for that"
    )
    user: str | None = None
    truncate_prompt_tokens: int | None = Field(
        None, description="cut longer texts to so many tokens, -1 for as many as the model takes; refused otherwise"
    )
    prompt_name: str | None = Field(None, description="which of the model's prompts is put before each text")


class Embeddings:
    def __init__(self, context: ServerContext) -> None:
        self._context = context

    async def answer(self, body: EmbeddingsBody, call: Call) -> Response:
        context = self._context
        require_served(body.model, context.model)
        embedder = require_embeddings(context)
        warnings = warnings_of(body.unknown(), strict=context.settings.server.strict_fields)
        size, prompt = embedder.size(body.dimensions), embedder.inputs.prompt(body.prompt_name)
        inputs = await asyncio.to_thread(_inputs, body, embedder, prompt)
        skip = 0 if _ids_given(body.input) else embedder.inputs.skipped(prompt)
        vectors = await embedder.encode(inputs, call.meter, size=size, skip=skip)
        usage = {"prompt_tokens": call.meter.prompt_tokens, "total_tokens": call.meter.prompt_tokens}
        answer = {"object": "list", "data": _data(vectors, body), "model": context.model.name, "usage": usage}
        content = msgspec.json.encode({**answer, "warnings": warnings} if warnings else answer)
        call.meter.finish(200)
        return Response(content, media_type="application/json")


def embeddings_endpoint(context: ServerContext) -> Endpoint[Any]:
    run = Embeddings(context).answer
    return Endpoint(path="/v1/embeddings", body=EmbeddingsBody, run=run, observers=context.observers)


def _ids_given(given: Any) -> bool:
    """Whether token ids were sent, which get no prompt."""
    return not isinstance(given, str) and bool(given) and not isinstance(given[0], str)


def _inputs(body: EmbeddingsBody, embedder: Embedder, prompt: str) -> list[Input]:
    """What to encode, with the name that each entry has in the body."""
    cut = embedder.inputs.cut(body.truncate_prompt_tokens)
    given: Any = body.input
    if isinstance(given, str):
        return [embedder.inputs.text(given, "input", prompt=prompt, cut=cut)]
    if given and isinstance(given[0], int):
        return [embedder.inputs.ids(given, "input", cut=cut)]
    embedder.check_count(len(given), "input")
    if _ids_given(given):
        return [embedder.inputs.ids(ids, f"input[{place}]", cut=cut) for place, ids in enumerate(given)]
    return [embedder.inputs.text(text, f"input[{place}]", prompt=prompt, cut=cut) for place, text in enumerate(given)]


def _data(vectors: Sequence[Vector], body: EmbeddingsBody) -> list[dict[str, Any]]:
    spell = _base64 if body.encoding_format == "base64" else _numbers
    return [{"object": "embedding", "index": i, "embedding": spell(vector)} for i, vector in enumerate(vectors)]


def _numbers(vector: Vector) -> Any:
    return vector.tolist()


def _base64(vector: Vector) -> Any:
    """One text, or one for each token where a text has a vector for each."""
    if vector.ndim > 1:
        return [_base64(row) for row in vector]
    return base64.b64encode(vector.astype(LITTLE).tobytes()).decode("ascii")
