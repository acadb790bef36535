"""How do OpenAI's routes for text answer, whole or streamed?"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response

from maxserve.core.answers.answering import Generation, Parts, usage_of
from maxserve.core.answers.bodies import TextBody
from maxserve.core.answers.endpoint import Call
from maxserve.core.answers.parts import Answer, Part, answers
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ModelInfo
from maxserve.core.server.generation import begun
from maxserve.core.server.identity import client_of
from maxserve.core.server.meter import Meter
from maxserve.core.server.sse import EventStream
from maxserve.plugins.openai.chunks import Chunks, json_of


class Wording(Protocol):
    """How one route asks and answers. `opening`, `part` and `closing` are choices of a stream, as JSON."""

    path: str
    body: type[Any]
    id_prefix: str
    object: str
    chunk_object: str

    async def begin(self, body: Any, user: str) -> Generation: ...
    def choice(self, index: int, answer: Answer) -> dict[str, Any]: ...
    def opening(self, index: int) -> bytes | None: ...
    def part(self, index: int, part: Part) -> bytes | None: ...
    def closing(self, index: int, part: Part) -> bytes: ...


class Exchange:
    """One of the routes that generate text."""

    def __init__(self, wording: Wording, info: ModelInfo) -> None:
        self._wording = wording
        self._info = info

    async def answer(self, body: TextBody, call: Call) -> Response:
        if body.stream_options is not None and not body.stream:
            raise RequestError("stream_options is for streams only; set stream", param="stream_options")
        generation = await self._wording.begin(body, client_of(body.user, call.headers))
        job, meter = generation.job, call.meter
        meter.prompt_tokens, meter.n, meter.max_tokens = job.prompt_tokens, job.n, job.max_tokens
        if not body.stream:
            return await self._whole(generation, call)
        parts = await begun(generation.parts)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        head = self._head(call.id, self._wording.chunk_object)
        chunks = Chunks(head, with_usage=with_usage, warnings=generation.warnings)
        events = self._events(len(job.requests), parts, chunks, meter, with_usage)
        return EventStream(events, finished=meter.finish)

    async def _whole(self, generation: Generation, call: Call) -> Response:
        meter, gathered = call.meter, answers(len(generation.job.requests))
        async with aclosing(generation.parts) as parts:
            async for index, part in parts:
                meter.piece(index, part.piece)
                gathered[index].add(part)
        choices = [self._wording.choice(i, answer) for i, answer in enumerate(gathered)]
        answer = {**self._head(call.id, self._wording.object), "choices": choices, "usage": _usage(meter)}
        if generation.warnings:
            answer["warnings"] = generation.warnings
        meter.finish(200)
        return Response(json_of(answer), media_type="application/json")

    async def _events(
        self, count: int, parts: Parts, chunks: Chunks, meter: Meter, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        wording = self._wording
        async with aclosing(parts):
            for index in range(count):
                if (opening := wording.opening(index)) is not None:
                    yield chunks.choice(opening)
            async for index, part in parts:
                meter.piece(index, part.piece)
                if (text := wording.part(index, part)) is not None:
                    yield chunks.choice(text)
                if part.finish is not None:
                    yield chunks.choice(wording.closing(index, part))
        if with_usage:
            yield chunks.usage(_usage(meter))

    def _head(self, request_id: str, kind: str) -> dict[str, Any]:
        return {
            "id": self._wording.id_prefix + request_id,
            "object": kind,
            "created": int(time.time()),
            "model": self._info.name,
        }


def _usage(meter: Meter) -> dict[str, Any]:
    return usage_of(meter.prompt_tokens, meter.generated_tokens, meter.cached_tokens)
