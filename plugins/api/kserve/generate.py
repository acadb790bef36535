"""POST …/generate and …/generate_stream: one text in, one text out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from maxserve.core.http.errors import Failure
from maxserve.core.http.sse import event
from maxserve.interfaces.engine import ModelInfo
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.parts import Answer, Part
from maxserve.plugins.api.common.single import Telling
from maxserve.plugins.api.kserve.bodies import GenerateBody
from maxserve.plugins.api.kserve.completing import VERSION, Completing
from maxserve.plugins.api.kserve.failures import failure_body


def head_of(request_id: str | None, info: ModelInfo, warnings: Any) -> dict[str, Any]:
    """What every answer begins with."""
    head: dict[str, Any] = {"id": request_id} if request_id is not None else {}
    head |= {"model_name": info.name, "model_version": VERSION}
    return head | {"warnings": list(warnings)} if warnings else head


class Generate:
    """The `SingleWording` of both paths; one of them streams."""

    def __init__(self, completing: Completing, info: ModelInfo, *, stream: bool) -> None:
        self._completing = completing
        self._info = info
        self._stream = stream

    def streams(self, body: GenerateBody) -> bool:
        return self._stream

    async def begin(self, body: GenerateBody, call: Call) -> Telling:
        generation = await self._completing.begin(
            [body.text_input], {**body.unknown(), **(body.parameters or {})}, call
        )
        head = head_of(body.id, self._info, generation.warnings)
        return Telling(
            generation=generation, whole=partial(_whole, head), teller=partial(GenerateEvents, head), last=b""
        )


class GenerateEvents:
    """The `Teller` of streams: an event for each piece of text, the last with the reason why it ends."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head = dict(head)

    def opening(self) -> bytes:
        return b""

    def part(self, part: Part) -> bytes:
        return self._event({"text_output": part.content}) if part.content and part.finish is None else b""

    def closing(self, part: Part) -> bytes:
        return self._event({"text_output": part.content, "finish_reason": part.finish})

    def failed(self, failure: Failure) -> bytes:
        return event(failure_body(failure))

    def _event(self, said: Mapping[str, Any]) -> bytes:
        told = event(msgspec.json.encode({**self._head, **said}))
        self._head.pop("warnings", None)  # once is enough
        return told


def _whole(head: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    return {**head, "text_output": answer.content, "finish_reason": answer.finish}
