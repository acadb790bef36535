"""POST …/generate and …/generate_stream: one text in, one text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from maxserve.http import Failure
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.answering import Generation
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.event_stream import event
from maxserve.plugins.api.common.text_route import ResponsePlan, StreamEncoder
from maxserve.plugins.api.kserve.bodies import GenerateBody
from maxserve.plugins.api.kserve.completing import VERSION, Completing
from maxserve.plugins.api.kserve.failures import failure_body


def head_of(request_id: str | None, generation: Generation) -> dict[str, Any]:
    """What every answer begins with."""
    head: dict[str, Any] = {"id": request_id} if request_id is not None else {}
    head |= {"model_name": generation.plan.model, "model_version": VERSION}
    return head | {"warnings": list(generation.warnings)} if generation.warnings else head


class Generate:
    """The `Dialect` of both paths; one of them streams."""

    def __init__(self, completing: Completing, *, stream: bool) -> None:
        self._completing = completing
        self._stream = stream

    async def plan(self, body: GenerateBody, call: Call) -> ResponsePlan:
        generation = await self._completing.begin(
            [body.text_input], {**body.unknown(), **(body.parameters or {})}, call
        )
        head = head_of(body.id, generation)
        return ResponsePlan(
            generation=generation,
            whole=partial(_whole, head),
            stream=partial(GenerateEvents, head) if self._stream else None,
        )


class GenerateEvents(StreamEncoder):
    """An event for each piece of text, the last with the reason why it ends."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head = dict(head)

    def delta(self, index: int, delta: TextDelta) -> bytes:
        return self._event({"text_output": delta.text}) if delta.text and delta.finish is None else b""

    def closing(self, index: int, delta: TextDelta) -> bytes:
        return self._event({"text_output": delta.text, "finish_reason": delta.finish_reason})

    def failed(self, failure: Failure) -> bytes:
        return event(failure_body(failure))

    def _event(self, fields: Mapping[str, Any]) -> bytes:
        data = event(msgspec.json.encode({**self._head, **fields}))
        self._head.pop("warnings", None)  # once is enough
        return data


def _whole(head: Mapping[str, Any], answers: Sequence[Answer]) -> dict[str, Any]:
    (answer,) = answers
    return {**head, "text_output": answer.content, "finish_reason": answer.finish}
