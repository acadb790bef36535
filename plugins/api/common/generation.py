"""The deltas of answers, as the engine's outputs come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import Protocol, TypeAlias

import msgspec

from maxserve.interfaces.errors import EngineError
from maxserve.interfaces.request import Output, Request
from maxserve.interfaces.routes import EngineClient
from maxserve.plugins.api.common.answer import TextDelta

SLICE = 32  # answers that are begun before other requests get their turn
_NO_END = "the engine ended the request without saying why"

Deltas: TypeAlias = AsyncGenerator[tuple[int, TextDelta], None]


class MakesDeltas(Protocol):
    """Makes deltas of the outputs of one request."""

    def add(self, output: Output) -> TextDelta: ...


def generate_text(
    engine: EngineClient,
    requests: Sequence[Request],
    text_of: Callable[[int], MakesDeltas],
    at_once: int | None = None,
) -> Deltas:
    """(index of the request, delta) of all answers as they come; the last delta of each has a finish reason.

    `text_of(index)` makes the deltas of a request, from when it begins. Of so many requests as `at_once`, each next one
    begins when one has ended; None begins all of them. Closing the iterator aborts what runs, and so does the first
    failure: EngineError when the engine gave up on a request.
    """
    if len(requests) == 1:
        return _one(engine, requests[0], text_of)
    return _merged(_Answers(engine, requests, text_of, asyncio.Queue()), at_once)


async def _one(engine: EngineClient, request: Request, text_of: Callable[[int], MakesDeltas]) -> Deltas:
    text = text_of(0)
    async with aclosing(engine.generate(request)) as outputs:
        async for output in outputs:
            delta = text.add(output)
            yield 0, delta
            if delta.finish is not None:
                return
    raise EngineError(_NO_END)


class _Answers(msgspec.Struct, frozen=True):
    """Several answers, whose deltas are put into one queue; None stands for the end of one of them."""

    engine: EngineClient
    requests: Sequence[Request]
    text_of: Callable[[int], MakesDeltas]
    queue: asyncio.Queue[tuple[int, TextDelta] | BaseException | None]

    async def begin(self, waiting: Iterator[int], count: int) -> None:
        """Begins so many answers, a few at a time: other clients' requests come in between."""
        async with asyncio.TaskGroup() as pumps:
            for begun in range(count):
                if begun % SLICE == SLICE - 1:
                    await asyncio.sleep(0)
                for index in islice(waiting, 1):
                    pumps.create_task(self.pump(index))

    async def pump(self, index: int) -> None:
        """Puts the deltas of one answer into the queue."""
        try:
            text = self.text_of(index)
            async with aclosing(self.engine.generate(self.requests[index])) as outputs:
                async for output in outputs:
                    delta = text.add(output)
                    self.queue.put_nowait((index, delta))
                    if delta.finish is not None:
                        break
                else:
                    raise EngineError(_NO_END)
            self.queue.put_nowait(None)
        except Exception as error:  # belongs to the reader of the deltas
            self.queue.put_nowait(error)


async def _merged(answers: _Answers, at_once: int | None) -> Deltas:
    running = len(answers.requests)
    waiting = iter(range(running))
    pumps = [asyncio.create_task(answers.begin(waiting, at_once or running))]
    try:
        while running:
            got = await answers.queue.get()
            if got is None:
                running -= 1
                if at_once is not None:
                    pumps += [asyncio.create_task(answers.pump(index)) for index in islice(waiting, 1)]
            elif isinstance(got, BaseException):
                raise got
            else:
                yield got
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
