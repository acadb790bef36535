"""Which of Anthropic's paths are served, and by what."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from maxserve.core.http.threads import beside
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.anthropic.bodies import CountBody, MessageBody
from maxserve.plugins.api.anthropic.failures import failure_response
from maxserve.plugins.api.anthropic.telling import MessageEvents, blocks, ending, message, usage
from maxserve.plugins.api.anthropic.translation import MessageTranslation
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.parts import Answer
from maxserve.plugins.api.common.single import SingleAnswer, Telling


class Messages:
    """The `SingleWording` of messages, and the counting of their tokens."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._translation = MessageTranslation(answering)

    def streams(self, body: MessageBody) -> bool:
        return bool(body.stream)

    async def begin(self, body: MessageBody, call: Call) -> Telling:
        chat, warnings = await beside(lambda: self._translation.chat_body(body), call.large)
        generation = await self._answering.chat(chat, user=client_of(chat.user, call.headers))
        head = message(call.id, self._answering.context.model.name, call.meter, [*generation.warnings, *warnings])
        return Telling(
            generation=generation,
            whole=partial(_whole, head, call),
            teller=partial(MessageEvents, head, call.id, call.meter),
            last=b"",
            headers={"request-id": call.id},
        )

    async def count(self, body: CountBody, call: Call) -> Response:
        chat, _ = await beside(lambda: self._translation.chat_body(body), call.large)
        counted = {"input_tokens": len(await self._answering.prompt(chat))}
        return Response(msgspec.json.encode(counted), media_type="application/json", headers={"request-id": call.id})


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    answering = context.once(Answering)
    messages = Messages(answering)
    Endpoint(
        path="/v1/messages",
        body=answering.body(MessageBody),
        run=SingleAnswer(messages).answer,
        observers=context.observers,
        failed=failure_response,
    ).add_to(routes)
    Endpoint(  # generates nothing, so observers of generations hear nothing of it
        path="/v1/messages/count_tokens", body=answering.body(CountBody), run=messages.count, failed=failure_response
    ).add_to(routes)
    return routes


def _whole(head: dict[str, Any], call: Call, answer: Answer) -> dict[str, Any]:
    end = ending(answer.finish, answer.stop, call.meter)
    return {**head, "content": blocks(answer), **end, "usage": usage(call.meter)}
