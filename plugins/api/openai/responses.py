"""POST /v1/responses and /v1/responses/input_tokens: OpenAI's Responses API over chats, without a store."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response

from maxserve.http import Failure
from maxserve.plugins.api.common.answer import Answer
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.endpoint import Call, Endpoint
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.renaming import renamed
from maxserve.plugins.api.common.text_route import ResponsePlan, TextRoute
from maxserve.plugins.api.common.threads import in_thread_if
from maxserve.plugins.api.openai.failures import failure_response
from maxserve.plugins.api.openai.responses_body import ResponseBody
from maxserve.plugins.api.openai.responses_events import ResponseEvents
from maxserve.plugins.api.openai.responses_input import ResponseTranslation
from maxserve.plugins.api.openai.responses_items import NewItems, ResponseObject, items_of, statuses, usage_of_response

SEALED = "reasoning.encrypted_content"  # what clients include that send their conversation back themselves
_NAMES = {  # what fields of chats are called here
    "messages": "input",
    "max_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
}


class Responses:
    """The `Dialect` of responses."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._translation = ResponseTranslation(answering)

    async def plan(self, body: ResponseBody, call: Call) -> ResponsePlan:
        chat, tools, warnings = await in_thread_if(call.large, lambda: self._translation.chat_body(body))
        generation = await self._answering.chat(chat, user=client_of(chat.user, call.headers))
        warnings = [*generation.warnings, *warnings]
        response = ResponseObject(body, self._answering.context.model, generation.plan.model, call.id, warnings)
        new = NewItems(call.id, tools, seals=SEALED in (body.include or ()))
        return ResponsePlan(
            generation=generation,
            whole=partial(_whole, response, new, call),
            stream=partial(ResponseEvents, response, new, call.meter) if body.stream else None,
        )

    async def count(self, body: ResponseBody, call: Call) -> Response:
        """How many tokens the prompt of a response would have."""
        chat, _, warnings = await in_thread_if(call.large, lambda: self._translation.chat_body(body))
        counted = {"object": "response.input_tokens", "input_tokens": len(await self._answering.prompt(chat))}
        answer = {**counted, "warnings": warnings} if warnings else counted
        return Response(msgspec.json.encode(answer), media_type="application/json")


def responses_endpoints(answering: Answering) -> tuple[Endpoint[Any], ...]:
    responses, body = Responses(answering), answering.body(ResponseBody)
    whole = Endpoint(
        path="/v1/responses",
        body=body,
        run=TextRoute(responses).answer,
        observers=answering.context.observers,
        failed=_failed,
    )
    # It generates nothing, so observers of generations hear nothing of it.
    return whole, Endpoint(path="/v1/responses/input_tokens", body=body, run=responses.count, failed=_failed)


def _whole(response: ResponseObject, new: NewItems, call: Call, answers: Sequence[Answer]) -> dict[str, Any]:
    (answer,) = answers
    items = items_of(answer, new)
    status, each = statuses(len(items), answer.finish)
    output = [item.shown(state) for item, state in zip(items, each, strict=True)]
    return response.shown(status, output, usage=usage_of_response(call.meter, answer.reasoning_tokens))


def _failed(failure: Failure, request_id: str) -> Response:
    return failure_response(renamed(failure, _NAMES))
