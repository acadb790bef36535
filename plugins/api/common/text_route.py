"""Routes that generate text: answers in a dialect, whole or streamed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Protocol, TypeVar

import msgspec
from starlette.responses import Response

from maxserve.http import Failure
from maxserve.plugins.api.common.answer import Answer, TextDelta, answers
from maxserve.plugins.api.common.answering import Generation
from maxserve.plugins.api.common.endpoint import Call
from maxserve.plugins.api.common.event_stream import EventStream
from maxserve.plugins.api.common.meter import Meter

B = TypeVar("B", contravariant=True)


class StreamEncoder(Protocol):
    """Encodes the answers to one request as they come, each time as the bytes of events, if any.

    `opening` is called when the first delta is there, and metered, but not encoded yet; `closing` after the last delta
    of each answer, and `ending` after all answers. `failed` tells why there will be no more, before or after anything
    else. `last` ends every stream, failures included.
    """

    last: ClassVar[bytes] = b""

    def opening(self) -> bytes:
        return b""

    def delta(self, index: int, delta: TextDelta) -> bytes: ...
    def closing(self, index: int, delta: TextDelta) -> bytes: ...

    def ending(self) -> bytes:
        return b""

    def failed(self, failure: Failure) -> bytes: ...


class ResponsePlan(msgspec.Struct, frozen=True, kw_only=True):
    """A generation, and what encodes its answers: `whole` as one object, `stream` as events, if that is asked for.

    `headers` go with every response.
    """

    generation: Generation
    whole: Callable[[Sequence[Answer]], Mapping[str, Any]]
    stream: Callable[[], StreamEncoder] | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)


class Dialect(Protocol[B]):
    """How one route is asked, and how it answers."""

    async def plan(self, body: B, call: Call) -> ResponsePlan: ...


class TextRoute:
    """The `run` of an `Endpoint` with such a dialect."""

    def __init__(self, dialect: Dialect[Any]) -> None:
        self._dialect = dialect

    async def answer(self, body: Any, call: Call) -> Response:
        plan = await self._dialect.plan(body, call)
        requests, meter = plan.generation.plan, call.meter
        meter.prompt_tokens, meter.n, meter.max_tokens = requests.prompt_tokens, requests.n, requests.max_tokens
        response = await (_whole(plan, meter) if plan.stream is None else _streamed(plan, plan.stream(), meter))
        response.headers.update(plan.headers)
        return response


async def _whole(plan: ResponsePlan, meter: Meter) -> Response:
    gathered = answers(len(plan.generation.plan.requests))
    async with aclosing(plan.generation.deltas) as deltas:
        async for index, delta in deltas:
            meter.add(index, delta)
            gathered[index].add(delta)
    body = msgspec.json.encode(plan.whole(gathered))
    meter.finish(200)
    return Response(body, media_type="application/json")


async def _streamed(plan: ResponsePlan, encoder: StreamEncoder, meter: Meter) -> Response:
    events = _events(plan, encoder, meter)
    return await EventStream(events, finished=meter.finish, failed=encoder.failed, last=encoder.last).begun()


async def _events(plan: ResponsePlan, encoder: StreamEncoder, meter: Meter) -> AsyncGenerator[bytes, None]:
    """The events of a stream, those of a delta in one item; the first comes with the first delta, even if that has no
    event."""
    opened = False
    async with aclosing(plan.generation.deltas) as deltas:
        async for index, delta in deltas:
            meter.add(index, delta)
            data = encoder.delta(index, delta) if opened else encoder.opening() + encoder.delta(index, delta)
            if delta.finish is not None:
                data += encoder.closing(index, delta)
            if data or not opened:
                yield data
            opened = True
    yield encoder.ending()
