"""Which of Anthropic's paths are served, and by what."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.anthropic.bodies import CountBody, MessageBody
from maxserve.plugins.api.anthropic.events import MessageEvents, blocks, ending, message, usage
from maxserve.plugins.api.anthropic.failures import failure_response
from maxserve.plugins.api.anthropic.translation import MessageTranslation
from maxserve.plugins.api.common.answer import Answer
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.text_route import ResponsePlan, TextRoute
from maxserve.plugins.api.common.threads import in_thread_if


class Messages:
    """The `Dialect` of messages, and the counting of their tokens."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._translation = MessageTranslation(answering)

    async def plan(self, body: MessageBody, call: Call) -> ResponsePlan:
        chat, warnings = await in_thread_if(call.large, lambda: self._translation.chat_body(body))
        generation = await self._answering.chat(chat, user=client_of(chat.user, call.headers))
        head = message(call.id, generation.plan.model, call.meter, [*generation.warnings, *warnings])
        return ResponsePlan(
            generation=generation,
            whole=partial(_whole, head, call),
            stream=partial(MessageEvents, head, call.id, call.meter) if body.stream else None,
            headers={"request-id": call.id},
        )

    async def count(self, body: CountBody, call: Call) -> Response:
        chat, _ = await in_thread_if(call.large, lambda: self._translation.chat_body(body))
        counted = {"input_tokens": len(await self._answering.prompt(chat))}
        return Response(msgspec.json.encode(counted), media_type="application/json", headers={"request-id": call.id})


def router(context: ServerContext) -> APIRouter:
    routes = APIRouter()
    answering = context.once(Answering)
    messages = Messages(answering)
    Endpoint(
        path="/v1/messages",
        body=answering.body(MessageBody),
        run=TextRoute(messages).answer,
        observers=context.observers,
        failed=failure_response,
    ).add_to(routes)
    Endpoint(  # generates nothing, so observers of generations hear nothing of it
        path="/v1/messages/count_tokens", body=answering.body(CountBody), run=messages.count, failed=failure_response
    ).add_to(routes)
    return routes


def _whole(head: dict[str, Any], call: Call, answers: Sequence[Answer]) -> dict[str, Any]:
    (answer,) = answers
    end = ending(answer.finish, answer.stop, call.meter)
    return {**head, "content": blocks(answer), **end, "usage": usage(call.meter)}
