"""How do an engine's tokens become the text of an answer?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import islice
from typing import TypeVar

from maxserve.interfaces.errors import EngineError
from maxserve.interfaces.request import Request
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.answer import AnswerText, Piece

T = TypeVar("T")

SLICE = 32  # streams that are begun before others get their turn


async def generate_text(
    context: ServerContext,
    request: Request,
    *,
    stop: Sequence[str] = (),
    kept: Sequence[str] = (),
    include_stop: bool = False,
    skip_special_tokens: bool = True,
) -> AsyncGenerator[Piece, None]:
    """The answer to `request`, piece by piece; the last one has a finish reason.

    A stop string ends the answer before its first character, also when it began in an earlier piece. Closing the
    iterator aborts the request. EngineError when the engine gave up on it. The other options are those of AnswerText.
    """
    text = AnswerText(
        context.tokenizer,
        request,
        context.model.eos_token_ids,
        stop,
        kept=kept,
        include_stop=include_stop,
        skip_special_tokens=skip_special_tokens,
    )
    async with aclosing(context.engine.generate(request)) as outputs:
        async for output in outputs:
            piece = text.add(output)
            yield piece
            if piece.finish is not None:
                return
    raise EngineError("the engine ended the request without saying why")


async def merged(
    streams: Sequence[AsyncGenerator[T, None]], at_once: int | None = None
) -> AsyncGenerator[tuple[int, T], None]:
    """(index, item) of all streams as they come; the first failure ends them all, and so does closing this.

    Of so many streams as `at_once`, each next one is begun when one has ended; None begins all of them.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
    waiting = iter(enumerate(streams))
    pumps = [asyncio.create_task(_begin_several(waiting, queue, at_once or len(streams)))]
    try:
        running = len(streams)
        while running:
            got = await queue.get()
            if got is None:
                running -= 1
                if at_once is not None:
                    pumps += [asyncio.create_task(_pump(*each, queue)) for each in islice(waiting, 1)]
            elif isinstance(got, BaseException):
                raise got
            else:
                yield got
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)


async def _begin_several(
    waiting: Iterator[tuple[int, AsyncGenerator[T, None]]],
    queue: asyncio.Queue[tuple[int, T] | BaseException | None],
    count: int,
) -> None:
    """Begins so many of the streams, a few at a time: other clients' requests come in between."""
    async with asyncio.TaskGroup() as pumps:
        for begun in range(count):
            if begun % SLICE == SLICE - 1:
                await asyncio.sleep(0)
            for each in islice(waiting, 1):
                pumps.create_task(_pump(*each, queue))


async def _pump(
    index: int, stream: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T] | BaseException | None]
) -> None:
    async with aclosing(stream):
        try:
            async for item in stream:
                queue.put_nowait((index, item))
            queue.put_nowait(None)
        except Exception as error:  # belongs to whoever reads the merged stream
            queue.put_nowait(error)


async def begun(stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """`stream`, once its first item is there: what is refused is refused here, before anything was answered."""
    try:
        first = await anext(stream)
    except BaseException:
        await stream.aclose()
        raise
    return _after(first, stream)


async def _after(first: T, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    async with aclosing(stream):
        yield first
        async for item in stream:
            yield item
