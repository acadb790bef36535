"""How do OpenAI's routes for text answer, whole or streamed?"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.responses import Response

from maxserve.core.http.sse import EventStream
from maxserve.interfaces.engine import ModelInfo
from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.answering import Generation, Parts, usage_of
from maxserve.plugins.api.common.bodies import TextBody
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.generation import begun
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.jobs import Job
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.common.parts import Answer, Part, answers
from maxserve.plugins.api.openai.chunks import Chunks, json_of


class Scribe(Protocol):
    """Words the answers to one request. `opening`, `part` and `closing` are choices of a stream, as JSON.

    `extras` are fields of the whole answer, or of a stream's first event, beside the usual ones.
    """

    def extras(self, gathered: Sequence[Answer]) -> dict[str, Any]: ...
    def choice(self, index: int, answer: Answer) -> dict[str, Any]: ...
    def opening(self, index: int) -> bytes | None: ...
    def part(self, index: int, part: Part) -> bytes | None: ...
    def closing(self, index: int, part: Part) -> bytes: ...


class Wording(Protocol):
    """How one route asks and answers."""

    path: str
    body: type[Any]
    id_prefix: str
    object: str
    chunk_object: str

    async def begin(self, body: Any, user: str) -> Generation: ...
    def scribe(self, body: Any, job: Job) -> Scribe: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """Which events of a stream tell the token counts: an event of their own at the end, or all of them."""

    last: bool
    each: bool

    @classmethod
    def of(cls, body: TextBody) -> Usage:
        options = body.stream_options
        if options is None:
            return cls(last=False, each=False)
        each = bool(options.continuous_usage_stats) and options.include_usage is not False
        return cls(last=bool(options.include_usage), each=each)


class Exchange:
    """One of the routes that generate text."""

    def __init__(self, wording: Wording, info: ModelInfo) -> None:
        self._wording = wording
        self._info = info

    async def answer(self, body: TextBody, call: Call) -> Response:
        usage = Usage.of(body)
        if body.stream_options and body.stream_options.given and not body.stream:
            raise RequestError("stream_options is for streams only; set stream", param="stream_options")
        generation = await self._wording.begin(body, client_of(body.user, call.headers))
        job, meter = generation.job, call.meter
        meter.prompt_tokens, meter.n, meter.max_tokens = job.prompt_tokens, job.n, job.max_tokens
        scribe = self._wording.scribe(body, job)
        if not body.stream:
            return await self._whole(body, generation, scribe, call)
        parts = await begun(generation.parts)
        head = self._head(body.request_id or call.id, self._wording.chunk_object)
        chunks = Chunks(head, with_usage=usage.last, first={**scribe.extras(()), **_warnings(generation)})
        events = _events(len(job.requests), parts, scribe, chunks, meter, usage)
        return EventStream(events, finished=meter.finish)

    async def _whole(self, body: TextBody, generation: Generation, scribe: Scribe, call: Call) -> Response:
        meter, gathered = call.meter, answers(len(generation.job.requests))
        async with aclosing(generation.parts) as parts:
            async for index, part in parts:
                meter.piece(index, part.piece)
                gathered[index].add(part)
        answer = {
            **self._head(body.request_id or call.id, self._wording.object),
            "choices": [scribe.choice(i, answer) for i, answer in enumerate(gathered)],
            "usage": _usage(meter),
            **scribe.extras(gathered),
            **_warnings(generation),
        }
        meter.finish(200)
        return Response(json_of(answer), media_type="application/json")

    def _head(self, request_id: str, kind: str) -> dict[str, Any]:
        return {
            "id": self._wording.id_prefix + request_id,
            "object": kind,
            "created": int(time.time()),
            "model": self._info.name,
        }


async def _events(
    count: int, parts: Parts, scribe: Scribe, chunks: Chunks, meter: Meter, usage: Usage
) -> AsyncGenerator[bytes, None]:
    def event(choice: bytes) -> bytes:
        return chunks.choice(choice, _usage(meter) if usage.each else None)

    async with aclosing(parts):
        for index in range(count):
            if (opening := scribe.opening(index)) is not None:
                yield event(opening)
        async for index, part in parts:
            meter.piece(index, part.piece)
            if (text := scribe.part(index, part)) is not None:
                yield event(text)
            if part.finish is not None:
                yield event(scribe.closing(index, part))
    if usage.last:
        yield chunks.usage(_usage(meter))


def _warnings(generation: Generation) -> dict[str, Any]:
    return {"warnings": generation.warnings} if generation.warnings else {}


def _usage(meter: Meter) -> dict[str, Any]:
    return usage_of(meter.prompt_tokens, meter.generated_tokens, meter.cached_tokens)
