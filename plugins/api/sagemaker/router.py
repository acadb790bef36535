"""POST /invocations: every kind of request that the model answers by one path, distinguished by what the body has."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from maxserve.http import LaterSchema
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.disconnect import ClientGone
from maxserve.plugins.api.common.endpoint import Endpoint
from maxserve.plugins.api.common.json_body import body_schema
from maxserve.plugins.api.common.text_route import TextRoute
from maxserve.plugins.api.openai.chat import Chat
from maxserve.plugins.api.openai.choices import ChoiceRoute, Choices
from maxserve.plugins.api.openai.completions import Completions
from maxserve.plugins.api.openai.embeddings import Embeddings, EmbeddingsBody
from maxserve.plugins.embeddings.rerank.bodies import RerankBody, ScoreBody
from maxserve.plugins.embeddings.rerank.router import Ranking

PATH = "/invocations"


class _Kind(msgspec.Struct):
    """What distinguishes the bodies; the rest of a body is skipped, not decoded."""

    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    query: msgspec.Raw = msgspec.Raw()
    queries: msgspec.Raw = msgspec.Raw()
    text_1: msgspec.Raw = msgspec.Raw()
    data_1: msgspec.Raw = msgspec.Raw()

    @property
    def given(self) -> list[str]:
        """The fields that are there, and not null."""
        return [name for name in self.__struct_fields__ if _given(getattr(self, name))]


class Invocations:
    """Hands a request on to the code of the route that it is meant for, of those that the model's task has."""

    def __init__(self, context: ServerContext) -> None:
        self._endpoints = _text_endpoints(context) if context.model.vectors is None else _vector_endpoints(context)

    def schema(self) -> dict[str, Any]:
        """What /openapi.json says of the body: it is one of several."""
        bodies = dict.fromkeys(endpoint.body for endpoint in self._endpoints.values())
        either = [body_schema(body) for body in bodies]
        schemas = [each["requestBody"]["content"]["application/json"]["schema"] for each in either]
        content = {"application/json": {"schema": {"anyOf": schemas}}}
        return {"requestBody": {"required": True, "content": content}}

    async def answer(self, request: Request) -> Response:
        try:
            given = msgspec.json.decode(await request.body(), type=_Kind).given
        except ClientDisconnect:
            raise ClientGone from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            given = list(self._endpoints)[:1]  # any route says what is wrong with it
        meant = [name for name in given if name in self._endpoints]
        if len(meant) != 1:
            first, *others = self._endpoints
            raise RequestError(
                f"give one of {', '.join((first, *others))}; got {' and '.join(meant) or 'none'}", param=first
            )
        return await self._endpoints[meant[0]].answer(request)


def _text_endpoints(context: ServerContext) -> dict[str, Endpoint[Any]]:
    answering = context.once(Answering)
    chat, completions = (_text_endpoint(route, answering) for route in (Chat(answering), Completions(answering)))
    return {"messages": chat, "prompt": completions}


def _text_endpoint(route: ChoiceRoute, answering: Answering) -> Endpoint[Any]:
    context = answering.context
    return Endpoint(
        path=PATH,
        body=answering.body(route.body),
        run=TextRoute(Choices(route, context.model)).answer,
        observers=context.observers,
    )


def _vector_endpoints(context: ServerContext) -> dict[str, Endpoint[Any]]:
    """Embeddings, ranks and scores, by a field that only one of them has."""
    embeddings, ranking = Embeddings(context), Ranking(context)

    def endpoint(body: Any, run: Any) -> Endpoint[Any]:
        return Endpoint(path=PATH, body=body, run=run, observers=context.observers)

    made = endpoint(EmbeddingsBody, embeddings.embeddings)
    score = endpoint(ScoreBody, ranking.score)
    rank = endpoint(RerankBody, ranking.rerank)
    return {"input": made, "messages": made, "query": rank, "queries": score, "text_1": score, "data_1": score}


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    invocations = Invocations(context)
    routes.add_api_route(
        PATH,
        invocations.answer,
        methods=["POST"],
        response_model=None,
        openapi_extra=LaterSchema(invocations.schema),
    )
    return routes


def _given(value: msgspec.Raw) -> bool:
    """Whether there is a value, and not null."""
    return bytes(memoryview(value)[:4]) not in (b"", b"null")
