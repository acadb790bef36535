"""POST /invocations: chat completions and completions by one path, told apart by what the body has."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from maxserve.core.answers.answering import Answering
from maxserve.core.answers.endpoint import Endpoint
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ServerContext
from maxserve.core.server.body import body_schema
from maxserve.core.server.disconnect import ClientGone
from maxserve.plugins.openai.chat import Chat
from maxserve.plugins.openai.completions import Completions
from maxserve.plugins.openai.exchange import Exchange, Wording

PATH = "/invocations"


class _Kind(msgspec.Struct):
    """What tells the two bodies apart; the rest of a body is skipped, not decoded."""

    messages: msgspec.Raw = msgspec.Raw()
    prompt: msgspec.Raw = msgspec.Raw()

    @property
    def chats(self) -> bool:
        return _given(self.messages)

    @property
    def completes(self) -> bool:
        return _given(self.prompt)


class Invocations:
    """Hands a request on to the code of the OpenAI route that it is meant for."""

    def __init__(self, context: ServerContext) -> None:
        answering = context.once(Answering)
        self._chat = self._endpoint(Chat(answering), answering)
        self._completions = self._endpoint(Completions(answering), answering)

    @property
    def schema(self) -> dict[str, Any]:
        """What /openapi.json says of the body: it is one of two."""
        either = [body_schema(endpoint.body) for endpoint in (self._chat, self._completions)]
        schemas = [each["requestBody"]["content"]["application/json"]["schema"] for each in either]
        content = {"application/json": {"schema": {"anyOf": schemas}}}
        return {"requestBody": {"required": True, "content": content}}

    async def answer(self, request: Request) -> Response:
        try:
            kind = msgspec.json.decode(await request.body(), type=_Kind)
        except ClientDisconnect:
            raise ClientGone from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            kind = _Kind(messages=msgspec.Raw(b"?"))  # either route says what is wrong with it
        if kind.chats == kind.completes:
            raise RequestError("give messages (a chat) or prompt (a completion), and not both", param="messages")
        return await (self._chat if kind.chats else self._completions).answer(request)

    @staticmethod
    def _endpoint(wording: Wording, answering: Answering) -> Endpoint[Any]:
        context = answering.context
        return Endpoint(
            path=PATH,
            body=answering.body(wording.body),
            run=Exchange(wording, context.model).answer,
            observers=context.observers,
        )


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    invocations = Invocations(context)
    routes.add_api_route(
        PATH, invocations.answer, methods=["POST"], response_model=None, openapi_extra=invocations.schema
    )
    return routes


def _given(value: msgspec.Raw) -> bool:
    """Whether there is a value, and not null."""
    return bytes(memoryview(value)[:4]) not in (b"", b"null")
