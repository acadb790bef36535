"""OpenAI's routes for text, whose answers are choices."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from maxserve.http import Failure
from maxserve.interfaces.engine import ModelInfo
from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.answering import Generation, usage_of
from maxserve.plugins.api.common.bodies import TextBody
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.event_stream import event
from maxserve.plugins.api.common.identity import client_of
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.common.requests import RequestPlan
from maxserve.plugins.api.common.text_route import ResponsePlan, StreamEncoder
from maxserve.plugins.api.openai.chunks import Chunks
from maxserve.plugins.api.openai.failures import failure_body

DONE = b"data: [DONE]\n\n"


class ChoiceEncoder(Protocol):
    """Encodes the choices of one request. `opening`, `delta` and `closing` are choices of a stream, as JSON.

    `extras` are fields of the whole answer, or of a stream's first event, beside the usual ones.
    """

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]: ...
    def choice(self, index: int, answer: Answer) -> dict[str, Any]: ...
    def opening(self, index: int) -> bytes | None: ...
    def delta(self, index: int, delta: TextDelta) -> bytes | None: ...
    def closing(self, index: int, delta: TextDelta) -> bytes: ...


class ChoiceRoute(Protocol):
    """How one of these routes is asked, and what it calls its answers."""

    path: str
    body: type[Any]
    id_prefix: str
    object: str
    chunk_object: str

    async def begin(self, body: Any, user: str) -> Generation: ...
    def encoder(self, body: Any, plan: RequestPlan) -> ChoiceEncoder: ...


class Usage(msgspec.Struct, frozen=True):
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


class Choices:
    """The `Dialect` of one of the routes."""

    def __init__(self, route: ChoiceRoute, info: ModelInfo) -> None:
        self._route = route
        self._info = info

    async def plan(self, body: TextBody, call: Call) -> ResponsePlan:
        if body.stream_options and body.stream_options.given and not body.stream:
            raise RequestError("stream_options is for streams only; set stream", param="stream_options")
        if target := call.headers.get("x-target-endpoint"):
            body.target_endpoint = target
        generation = await self._route.begin(body, client_of(body.user, call.headers))
        encoder = self._route.encoder(body, generation.plan)
        warnings = {"warnings": generation.warnings} if generation.warnings else {}

        def head(kind: str) -> dict[str, Any]:
            request_id = self._route.id_prefix + (body.request_id or call.id)
            return {"id": request_id, "object": kind, "created": int(time.time()), "model": generation.plan.model}

        def whole(answers: Sequence[Answer]) -> dict[str, Any]:
            choices = [encoder.choice(i, answer) for i, answer in enumerate(answers)]
            answer = {**head(self._route.object), "choices": choices, "usage": _usage(call.meter)}
            transfer = next((each.transfer for each in answers if each.transfer), None)
            extras = {"kv_transfer_params": transfer} if transfer else {}
            return answer | encoder.extras(answers) | extras | warnings

        def stream() -> StreamEncoder:
            usage, first = Usage.of(body), encoder.extras(()) | warnings
            chunks = Chunks(head(self._route.chunk_object), with_usage=usage.last, first=first)
            return ChoiceStream(encoder, chunks, call.meter, usage, len(generation.plan.requests))

        return ResponsePlan(generation=generation, whole=whole, stream=stream if body.stream else None)


class ChoiceStream(StreamEncoder):
    """Chunks of one choice each, and one with the usage where that is wanted."""

    last = DONE

    def __init__(self, encoder: ChoiceEncoder, chunks: Chunks, meter: Meter, usage: Usage, count: int) -> None:
        self._encoder = encoder
        self._chunks = chunks
        self._meter = meter
        self._usage = usage
        self._count = count

    def opening(self) -> bytes:
        choices = (self._encoder.opening(index) for index in range(self._count))
        return b"".join(self._chunk(choice) for choice in choices if choice is not None)

    def delta(self, index: int, delta: TextDelta) -> bytes:
        choice = self._encoder.delta(index, delta)
        return b"" if choice is None else self._chunk(choice)

    def closing(self, index: int, delta: TextDelta) -> bytes:
        return self._chunk(self._encoder.closing(index, delta))

    def ending(self) -> bytes:
        return self._chunks.usage(_usage(self._meter)) if self._usage.last else b""

    def failed(self, failure: Failure) -> bytes:
        return event(failure_body(failure))

    def _chunk(self, choice: bytes) -> bytes:
        return self._chunks.choice(choice, _usage(self._meter) if self._usage.each else None)


def _usage(meter: Meter) -> Mapping[str, Any]:
    return usage_of(meter.prompt_tokens, meter.generated_tokens, meter.cached_tokens, meter.drafts)
