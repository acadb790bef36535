"""What happens between a request for text and its answer, whole or streamed, whatever the wording of the route?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from fastapi import Request
from starlette.responses import Response

from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ServerContext
from maxserve.core.model.answer import Piece
from maxserve.core.server.body import read_body
from maxserve.core.server.constraint_fields import constraint_asked
from maxserve.core.server.constraints import Constraints
from maxserve.core.server.disconnect import ClientGone, unless_gone
from maxserve.core.server.errors import failure_of
from maxserve.core.server.fields import RequestFields
from maxserve.core.server.generation import begun, generate_text, merged
from maxserve.core.server.identity import client_of
from maxserve.core.server.meter import Meter
from maxserve.core.server.sse import EventStream
from maxserve.plugins.openai.chunks import Chunks, json_of
from maxserve.plugins.openai.job import Job, plan_job
from maxserve.plugins.openai.models import require_served
from maxserve.plugins.openai.schema import TextBody
from maxserve.plugins.openai.unsupported import warnings_of

Pieces = AsyncGenerator[tuple[int, Piece], None]


class Wording(Protocol):
    """How one route asks and answers. `opening`, `text` and `closing` are choices of a stream, as JSON."""

    path: str
    body: type[Any]
    id_prefix: str
    object: str
    chunk_object: str
    prompt_field: str
    default_limit: int | None

    def prompts(self, body: Any) -> list[list[int]]:
        """The prompts' token ids; takes its time, so it is called in a thread."""
        ...

    def choice(self, index: int, text: str, finish: str | None) -> dict[str, Any]: ...
    def opening(self, index: int) -> bytes | None: ...
    def text(self, index: int, text: str) -> bytes: ...
    def closing(self, index: int, finish: str) -> bytes: ...


class TextRoute:
    """One of the routes that generate text."""

    def __init__(
        self, context: ServerContext, fields: RequestFields, constraints: Constraints, wording: Wording
    ) -> None:
        self._context = context
        self._constraints = constraints
        self._fields = fields
        self._wording = wording
        self.path = wording.path
        self.body: type[TextBody] = fields.model(wording.body.__name__, wording.body)

    async def answer(self, request: Request) -> Response:
        meter = Meter(self._context.observers, self.path)
        try:
            body = await read_body(request, self.body)
            request_id = request.scope["state"]["request_id"]
            user = client_of(body.user, request.headers)
            return await unless_gone(request.receive, self._run(body, request_id, user, meter))
        except ClientGone:
            meter.finish(499)
            raise
        except Exception as error:
            meter.finish(failure_of(error).status)
            raise

    async def _run(self, body: TextBody, request_id: str, user: str, meter: Meter) -> Response:
        require_served(body.model, self._context.model)
        warnings = warnings_of(body.unknown())
        if body.stream_options is not None and not body.stream:
            raise RequestError("stream_options is for streams only; set stream", param="stream_options")
        job = await self._job(body, user)
        meter.prompt_tokens, meter.n, meter.max_tokens = job.prompt_tokens, job.n, job.max_tokens
        pieces = merged([generate_text(self._context, r, stop=job.stops) for r in job.requests])
        if not body.stream:
            return await self._whole(job, pieces, request_id, warnings, meter)
        pieces = await begun(pieces)
        with_usage = bool(body.stream_options and body.stream_options.include_usage)
        head = self._head(request_id, self._wording.chunk_object)
        chunks = Chunks(head, with_usage=with_usage, warnings=warnings)
        return EventStream(self._events(job, pieces, chunks, meter, with_usage), finished=meter.finish)

    async def _job(self, body: TextBody, user: str) -> Job:
        wording = self._wording
        sampling = self._fields.sampling(body)
        asked = constraint_asked(body)
        constraint = await self._constraints.choose(asked.kind, asked.value, param=asked.param) if asked else None
        prompts = await asyncio.to_thread(wording.prompts, body)
        return plan_job(
            body,
            prompts,
            sampling,
            self._context.model,
            user=user,
            capacity=self._context.engine.capacity,
            prompt_field=wording.prompt_field,
            default_limit=wording.default_limit,
            constraint=constraint,
        )

    async def _whole(self, job: Job, pieces: Pieces, request_id: str, warnings: list[str], meter: Meter) -> Response:
        texts: list[list[str]] = [[] for _ in job.requests]
        ends: list[str | None] = [None] * len(texts)
        async with aclosing(pieces):
            async for index, piece in pieces:
                meter.piece(index, piece)
                texts[index].append(piece.text)
                ends[index] = piece.finish
        choices = [self._wording.choice(i, "".join(text), ends[i]) for i, text in enumerate(texts)]
        answer = {**self._head(request_id, self._wording.object), "choices": choices, "usage": _usage(meter)}
        if warnings:
            answer["warnings"] = warnings
        meter.finish(200)
        return Response(json_of(answer), media_type="application/json")

    async def _events(
        self, job: Job, pieces: Pieces, chunks: Chunks, meter: Meter, with_usage: bool
    ) -> AsyncGenerator[bytes, None]:
        wording = self._wording
        async with aclosing(pieces):
            for index in range(len(job.requests)):
                if (opening := wording.opening(index)) is not None:
                    yield chunks.choice(opening)
            async for index, piece in pieces:
                meter.piece(index, piece)
                if piece.text:
                    yield chunks.choice(wording.text(index, piece.text))
                if piece.finish is not None:
                    yield chunks.choice(wording.closing(index, piece.finish))
        if with_usage:
            yield chunks.usage(_usage(meter))

    def _head(self, request_id: str, kind: str) -> dict[str, Any]:
        name = self._context.model.name
        return {"id": self._wording.id_prefix + request_id, "object": kind, "created": int(time.time()), "model": name}


def _usage(meter: Meter) -> dict[str, Any]:
    generated = meter.generated_tokens
    return {
        "prompt_tokens": meter.prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": meter.prompt_tokens + generated,
        "prompt_tokens_details": {"cached_tokens": meter.cached_tokens},
    }
