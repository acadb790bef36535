from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from maxserve.core.interfaces.errors import EngineError, WorkerDied
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.core.text.tokenizer import Tokenizer
from maxserve.plugins.api.common.answer import Piece
from maxserve.plugins.api.common.generation import SLICE, begun, generate_text, merged

pytestmark = pytest.mark.anyio

EOS = "</s>"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token per byte, and an end."""
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([EOS])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))
    return Tokenizer.load(str(folder))


class Script:
    """An engine that gives the outputs it is told to; an exception among them is raised."""

    def __init__(self, outputs: Sequence[Output | Exception]) -> None:
        self._outputs = outputs
        self.given = 0
        self.closed = False

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        try:
            for output in self._outputs:
                await asyncio.sleep(0)
                if isinstance(output, Exception):
                    raise output
                self.given += 1
                yield output
        finally:
            self.closed = True


class Case:
    def __init__(self, tokenizer: Tokenizer, outputs: Sequence[Output | Exception], **params: Any) -> None:
        self.engine = Script(outputs)
        eos = (tokenizer.eos_token_id,)
        self.context: Any = SimpleNamespace(
            engine=self.engine, tokenizer=tokenizer, model=SimpleNamespace(eos_token_ids=eos)
        )
        self.request = Request(id="r", prompt=(1, 2), params=SamplingParams(**params))

    def pieces(self, *stop: str) -> AsyncGenerator[Piece, None]:
        return generate_text(self.context, self.request, stop=stop)


def outputs(
    tokenizer: Tokenizer, text: str, size: int, finish: Any = "length", tail: tuple[int, ...] = ()
) -> list[Output]:
    """`text` as tokens, `size` to an output; the last one has `tail` and ends it."""
    ids = [*tokenizer.encode(text, add_special_tokens=False), *tail]
    cuts = [tuple(ids[i : i + size]) for i in range(0, len(ids), size)]
    return [Output(id="r", tokens=t, finish=finish if t is cuts[-1] else None, cached=3) for t in cuts]


async def whole(stream: AsyncGenerator[Piece, None]) -> tuple[str, Piece]:
    """The whole text, and the last piece."""
    pieces = [piece async for piece in stream]
    return "".join(piece.text for piece in pieces), pieces[-1]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
async def test_pieces_make_the_text(tokenizer: Tokenizer, size: int) -> None:
    case = Case(tokenizer, outputs(tokenizer, "añ🦜 text", size))
    pieces = [piece async for piece in case.pieces()]
    assert "".join(p.text for p in pieces) == "añ🦜 text"
    assert all("\ufffd" not in p.text for p in pieces)
    assert [p.finish for p in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert pieces[-1].generated == sum(len(p.tokens) for p in pieces) == len("añ🦜 text".encode())
    assert pieces[-1].cached == 3
    assert case.engine.closed


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_token_that_ends_it_is_not_shown(tokenizer: Tokenizer, size: int) -> None:
    eos = tokenizer.eos_token_id or 0
    text, last = await whole(Case(tokenizer, outputs(tokenizer, "hi", size, "stop", (eos,))).pieces())
    assert (text, last.finish, last.generated) == ("hi", "stop", 3)
    x = tokenizer.encode("x", add_special_tokens=False)[0]
    by_id = Case(tokenizer, outputs(tokenizer, "hi", size, "stop", (x,)), stop_token_ids=(x,))
    assert (await whole(by_id.pieces()))[0] == "hi"
    at_length = Case(tokenizer, outputs(tokenizer, "hix", size), stop_token_ids=())
    assert (await whole(at_length.pieces()))[0] == "hix"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
async def test_a_stop_string_aborts_the_rest(tokenizer: Tokenizer, size: int) -> None:
    case = Case(tokenizer, outputs(tokenizer, "one two three" + "!" * 50, size))
    pieces = [piece async for piece in case.pieces("zzz", "two t")]
    assert "".join(p.text for p in pieces) == "one "
    assert pieces[-1].finish == "stop"
    assert pieces[-1].generated == len("one two t")
    assert case.engine.closed
    if size == 1:
        assert case.engine.given == len("one two t")


async def test_what_is_held_back_comes_at_the_end(tokenizer: Tokenizer) -> None:
    text, last = await whole(Case(tokenizer, outputs(tokenizer, "one tw", 1)).pieces("two"))
    assert (text, last.finish) == ("one tw", "length")


async def test_closing_aborts(tokenizer: Tokenizer) -> None:
    case = Case(tokenizer, outputs(tokenizer, "long text", 1))
    pieces = case.pieces()
    await anext(pieces)
    await pieces.aclose()
    assert case.engine.closed
    assert case.engine.given == 1


async def test_failures_are_raised(tokenizer: Tokenizer) -> None:
    failed = Output(id="r", finish="error", error="out of pages")
    with pytest.raises(EngineError, match="out of pages"):
        await whole(Case(tokenizer, [failed]).pieces())
    with pytest.raises(WorkerDied):
        await whole(Case(tokenizer, [*outputs(tokenizer, "x", 1, None), WorkerDied("gone")]).pieces())
    with pytest.raises(EngineError, match="without saying why"):
        await whole(Case(tokenizer, outputs(tokenizer, "x", 1, None)).pieces())


async def numbers(count: int, closed: list[int], fail: Exception | None = None) -> AsyncGenerator[int, None]:
    try:
        for number in range(count):
            await asyncio.sleep(0)
            yield number
        if fail is not None:
            raise fail
        if count == 0:
            await asyncio.sleep(60)
    finally:
        closed.append(count)


@pytest.mark.parametrize("counts", [(3,), (3, 1, 2)])
async def test_merged_gives_all_in_their_order(counts: tuple[int, ...]) -> None:
    closed: list[int] = []
    items = [item async for item in merged([numbers(count, closed) for count in counts])]
    for index, count in enumerate(counts):
        assert [number for i, number in items if i == index] == list(range(count))
    assert sorted(closed) == sorted(counts)


async def test_first_failure_ends_all() -> None:
    closed: list[int] = []
    with pytest.raises(KeyError):
        [item async for item in merged([numbers(0, closed), numbers(2, closed, KeyError())])]
    assert sorted(closed) == [0, 2]


async def test_closing_merged_closes_all() -> None:
    closed: list[int] = []
    stream = merged([numbers(0, closed), numbers(5, closed)])
    await anext(stream)
    await stream.aclose()
    assert sorted(closed) == [0, 5]


async def test_begun_loses_nothing_and_refuses_early() -> None:
    closed: list[int] = []
    assert [n async for n in await begun(numbers(3, closed))] == [0, 1, 2]
    with pytest.raises(KeyError):
        await begun(numbers(0, closed, KeyError()))
    assert closed == [3, 0]


async def test_no_more_streams_run_at_once_than_are_allowed() -> None:
    running: set[int] = set()
    most = 0

    async def stream(index: int) -> AsyncGenerator[int, None]:
        nonlocal most
        running.add(index)
        most = max(most, len(running))
        for i in range(3):
            await asyncio.sleep(0)
            yield i
        running.remove(index)

    got = [item async for item in merged([stream(i) for i in range(200)], at_once=50)]
    assert most == 50
    assert sorted(got) == [(index, i) for index in range(200) for i in range(3)]


async def test_the_event_loop_has_turns_while_streams_begin() -> None:
    begun: list[int] = []
    seen: list[int] = []

    async def stream() -> AsyncGenerator[int, None]:
        begun.append(1)
        await asyncio.sleep(0.01)
        yield 1

    async def watch() -> None:
        while len(begun) < 1000:
            seen.append(len(begun))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    assert len([item async for item in merged([stream() for _ in range(1000)])]) == 1000
    await watching
    assert max(b - a for a, b in pairwise(seen)) <= 2 * SLICE


async def test_closing_early_ends_what_runs_and_begins_no_more() -> None:
    begun: list[int] = []
    ended: list[int] = []

    async def stream(index: int) -> AsyncGenerator[int, None]:
        begun.append(index)
        try:
            while True:
                await asyncio.sleep(0)
                yield index
        finally:
            ended.append(index)

    streams = merged([stream(i) for i in range(500)], at_once=100)
    async with aclosing(streams):
        await anext(streams)
    assert sorted(begun) == sorted(ended)
    assert len(begun) <= 100


async def test_a_failure_of_a_late_stream_ends_all() -> None:
    async def stream(index: int) -> AsyncGenerator[int, None]:
        await asyncio.sleep(0)
        yield index
        if index == 90:
            raise EngineError("late")

    with pytest.raises(EngineError, match="late"):
        async for _ in merged([stream(i) for i in range(100)], at_once=10):
            pass
