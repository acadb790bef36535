"""POST /v1/embeddings, a vector for each text, and vLLM's /pooling, the same in other words."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field, model_validator
from starlette.responses import Response

from maxserve.interfaces.engine import SCORING
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.interfaces.served_names import ServedName
from maxserve.interfaces.tokenizer import Truncation
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.conversation import Conversations
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.options import AnswerOptions
from maxserve.plugins.api.common.tools import read_tools
from maxserve.plugins.api.openai.completion_body import Prompt
from maxserve.plugins.api.openai.vector_format import FormatFields, VectorFormat
from maxserve.plugins.embeddings.embedder import Embedder, require_embeddings, require_vectors, served_name
from maxserve.plugins.embeddings.encoder_input import Input
from maxserve.plugins.embeddings.vector_fields import VectorFields
from maxserve.plugins.embeddings.vectors import Vector

# What clients call the two sides of a search, by the names that models have for their prompts.
INPUT_TYPES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "s2p_query"),
    "search_query": ("search_query", "query", "s2p_query"),
    "passage": ("passage", "document", "search_document"),
    "document": ("document", "passage", "search_document"),
    "search_document": ("search_document", "document", "passage"),
    "classification": ("classification",),
    "clustering": ("clustering",),
}


class EmbeddingsBody(VectorFields, FormatFields):
    """Texts, token ids or a conversation whose embeddings are wanted."""

    input: Prompt | None = None
    messages: list[Any] | None = Field(None, description="a conversation, which the chat template makes a text of")
    dimensions: Annotated[int, Field(ge=1)] | None = Field(
        None, description="cut vectors to so many numbers, where the model was trained for that"
    )
    normalize: bool | None = Field(None, description="vectors of length 1, or as the model gives them before that")
    normalized: bool | None = Field(None, description="the same in the words of Jina")
    add_special_tokens: bool | None = Field(
        None, description="those that begin and end a text; default true, false for conversations"
    )
    add_generation_prompt: bool | None = Field(None, description="for `messages`; default false")
    continue_final_message: bool | None = Field(None, description="for `messages`: leave the last one open")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="variables for the chat template")
    prompt_name: str | None = Field(None, description="which of the model's prompts is put before each text")
    input_type: str | None = Field(None, description="the same by what the texts are: query, passage, document, …")

    @model_validator(mode="after")
    def _one_input(self) -> EmbeddingsBody:
        if (self.input is None) == (self.messages is None):
            raise RequestError("give input (texts or token ids) or messages (a conversation)", param="input")
        if self.continue_final_message and self.add_generation_prompt:
            message = "continue_final_message and add_generation_prompt exclude each other"
            raise RequestError(message, param="continue_final_message")
        return self

    @property
    def activation(self) -> bool | None:
        """Whether vectors have the length 1; None: as the model was made. RequestError for two different values."""
        given = {
            name: value
            for name in ("normalize", "normalized", "use_activation")
            if (value := getattr(self, name)) is not None
        }
        if len(set(given.values())) > 1:
            message = f"{' and '.join(given)} contradict each other; give one"
            raise RequestError(message, param=next(iter(given)), code="invalid_value")
        return next(iter(given.values()), None)


class PoolingBody(EmbeddingsBody):
    """The same for /pooling, which also gives the scores of single texts."""

    task: Literal["embed", "token_embed", "classify", "token_classify", "score", "plugin"] | None = Field(
        None, description="embed, or token_embed with --no-pool-embeddings; classify where the model gives scores"
    )


class Embeddings:
    """Both routes over one Embedder."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self._conversations = Conversations(context)

    async def embeddings(self, body: EmbeddingsBody, call: Call) -> Response:
        served = await served_name(self._context, body.model)
        embedder = require_embeddings(self._context)
        warnings = body.warnings(strict=self._context.config(AnswerOptions).strict_fields)
        vectors = await self._vectors(body, embedder, served, call)
        head = _head(f"embd-{call.id}", served)
        return _answered(vectors, body.format, head, ("embedding", "embedding"), warnings, call)

    async def pooling(self, body: PoolingBody, call: Call) -> Response:
        context = self._context
        served = await served_name(context, body.model)
        embedder = require_vectors(context)
        self._check_task(body.task)
        warnings = body.warnings(strict=context.config(AnswerOptions).strict_fields, taken=frozenset({"task"}))
        vectors = await self._vectors(body, embedder, served, call)
        return _answered(vectors, body.format, _head(f"pool-{call.id}", served), ("pooling", "data"), warnings, call)

    def _check_task(self, task: str | None) -> None:
        info = self._context.model
        pooled = info.vectors is not None and info.vectors.pooled
        given = "classify" if info.task == SCORING else "embed" if pooled else "token_embed"
        if task not in (None, given):
            more = "; --no-pool-embeddings gives a vector for each token" if given == "embed" else ""
            message = f"the task of this server is {given}, not {task}{more}"
            raise RequestError(message, param="task", code="unsupported_parameter")

    async def _vectors(self, body: EmbeddingsBody, embedder: Embedder, served: ServedName, call: Call) -> list[Vector]:
        _ = body.format  # what does not go together is refused before anything is computed
        size, prompt = embedder.size(body.dimensions), embedder.inputs.prompt(_prompt_name(body, embedder))
        inputs = await embedder.threads.run(partial(self._inputs, body, embedder, prompt))
        skip = 0 if body.messages is not None or _ids_given(body.input) else embedder.inputs.skipped(prompt)
        return await embedder.encode(
            inputs,
            call.meter,
            size=size,
            prompt_prefix=skip,
            activation=body.activation,
            adapter=served.adapter,
        )

    def _inputs(self, body: EmbeddingsBody, embedder: Embedder, prompt: str) -> list[Input]:
        truncation = body.truncated(embedder.inputs)
        if body.messages is not None:
            return [self._conversation(body, embedder, truncation)]
        return _inputs(body, embedder, prompt, truncation)

    def _conversation(self, body: EmbeddingsBody, embedder: Embedder, truncation: Truncation | None) -> Input:
        """The text that the chat template makes, whose special tokens it puts where they belong."""
        chat = ChatBody.model_validate(
            {
                "messages": body.messages,
                "add_generation_prompt": bool(body.add_generation_prompt),
                "continue_final_message": body.continue_final_message,
                "chat_template_kwargs": body.chat_template_kwargs,
            },
            strict=True,
        )
        text = self._conversations.text(chat, read_tools(chat))
        return embedder.inputs.text(
            text, "messages", truncation=truncation, add_special_tokens=bool(body.add_special_tokens)
        )


def _head(id: str, served: ServedName) -> dict[str, Any]:
    return {"id": id, "object": "list", "created": int(time.time()), "model": served.name}


def embeddings_endpoints(context: ServerContext) -> list[Endpoint[Any]]:
    routes = Embeddings(context)
    return [
        Endpoint(path=path, body=body, run=run, observers=context.observers)
        for path, body, run in (
            ("/v1/embeddings", EmbeddingsBody, routes.embeddings),
            ("/pooling", PoolingBody, routes.pooling),
        )
    ]


def _prompt_name(body: EmbeddingsBody, embedder: Embedder) -> str | None:
    """The model's prompt that is asked for; RequestError for an `input_type` that a model with prompts has none for."""
    if body.prompt_name is not None or body.input_type is None:
        return body.prompt_name
    there = embedder.inputs.prompt_names
    if not there:
        return None  # queries and passages are one to the model
    found = next((name for name in INPUT_TYPES.get(body.input_type, (body.input_type,)) if name in there), None)
    if found is None:
        message = f"the model has no prompt for the input_type {body.input_type[:100]!r}; it has {', '.join(there)}"
        raise RequestError(message, param="input_type", code="invalid_value")
    return found


def _ids_given(given: Any) -> bool:
    """Whether token ids were sent, which get no prompt."""
    return not isinstance(given, str) and bool(given) and not isinstance(given[0], str)


def _inputs(body: EmbeddingsBody, embedder: Embedder, prompt: str, truncation: Truncation | None) -> list[Input]:
    """What to encode, with the name that each entry has in the body."""
    inputs, given = embedder.inputs, body.input
    special = body.add_special_tokens is not False

    def text(given: str, name: str) -> Input:
        return inputs.text(given, name, prompt=prompt, truncation=truncation, add_special_tokens=special)

    entries: Any = given
    if isinstance(entries, str):
        return [text(entries, "input")]
    if entries and isinstance(entries[0], int):
        return [inputs.ids(entries, "input", truncation=truncation)]
    embedder.check_count(len(entries), "input")
    if _ids_given(given):
        return [inputs.ids(ids, f"input[{i}]", truncation=truncation) for i, ids in enumerate(entries)]
    return [text(each, f"input[{i}]") for i, each in enumerate(entries)]


def _answered(
    vectors: Sequence[Vector],
    form: VectorFormat,
    head: dict[str, Any],
    names: tuple[str, str],
    warnings: list[str],
    call: Call,
) -> Response:
    """The answer; `names` are the kind of an entry and its field with the vector."""
    kind, field = names
    tokens = call.meter.prompt_tokens
    head = {**head, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    head |= {"warnings": warnings} if warnings else {}
    if form.in_json:
        data = [{"object": kind, "index": i, field: form.value(vector)} for i, vector in enumerate(vectors)]
        response = Response(msgspec.json.encode({**head, "data": data}), media_type="application/json")
    else:
        content, items = form.body(vectors)
        headers = {"metadata": msgspec.json.encode({**head, "data": items}).decode()}
        response = Response(
            content,
            headers=headers if form.kind == "bytes" else None,
            media_type="application/octet-stream",
        )
    call.meter.finish(200)
    return response
