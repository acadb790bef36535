"""How does a route answer whose requests have one answer each, whole or streamed?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.responses import Response

from maxserve.core.http.errors import Failure
from maxserve.core.http.sse import DONE, Ending, EventStream
from maxserve.plugins.api.common.answering import Generation, Parts
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.generation import begun
from maxserve.plugins.api.common.parts import Answer, Part

B = TypeVar("B", contravariant=True)


class Teller(Protocol):
    """Tells one answer as it comes, each time as the bytes of events, if any.

    `opening` is called when the first part is there, and metered, but not told yet; `closing` after the last one.
    `failed` tells why there will be no more, before or after anything else.
    """

    def opening(self) -> bytes: ...
    def part(self, part: Part) -> bytes: ...
    def closing(self, part: Part) -> bytes: ...
    def failed(self, failure: Failure) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """A generation, and how its answer is told: `whole` as one object, `teller` as a stream.

    `last` ends every stream; `headers` go with every answer.
    """

    generation: Generation
    whole: Callable[[Answer], Mapping[str, Any]]
    teller: Callable[[], Teller]
    last: bytes = DONE
    headers: Mapping[str, str] = field(default_factory=dict)


class SingleWording(Protocol[B]):
    """How one route asks and tells."""

    async def begin(self, body: B, call: Call) -> Telling: ...
    def streams(self, body: B) -> bool: ...


class SingleAnswer:
    """The `run` of an `Endpoint` with such a wording."""

    def __init__(self, wording: SingleWording[Any]) -> None:
        self._wording = wording

    async def answer(self, body: Any, call: Call) -> Response:
        telling = await self._wording.begin(body, call)
        job, meter = telling.generation.job, call.meter
        meter.prompt_tokens, meter.n, meter.max_tokens = job.prompt_tokens, job.n, job.max_tokens
        response = await (_streamed(telling, call) if self._wording.streams(body) else _whole(telling, call))
        response.headers.update(telling.headers)
        return response


async def _whole(telling: Telling, call: Call) -> Response:
    answer = Answer()
    async with aclosing(telling.generation.parts) as parts:
        async for _, part in parts:
            call.meter.piece(0, part.piece)
            answer.add(part)
    body = msgspec.json.encode(telling.whole(answer))
    call.meter.finish(200)
    return Response(body, media_type="application/json")


async def _streamed(telling: Telling, call: Call) -> Response:
    parts, teller = await begun(telling.generation.parts), telling.teller()
    ending = Ending(failed=teller.failed, last=telling.last)
    return EventStream(_events(parts, teller, call), finished=call.meter.finish, ending=ending)


async def _events(parts: Parts, teller: Teller, call: Call) -> AsyncGenerator[bytes, None]:
    opened = False
    async with aclosing(parts):
        async for _, part in parts:
            call.meter.piece(0, part.piece)
            if not opened:
                opened = True
                yield teller.opening()
            if said := teller.part(part):
                yield said
            if part.finish is not None:
                yield teller.closing(part)
