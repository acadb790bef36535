from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from maxserve.core.interfaces.errors import EngineError, WorkerDied
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.core.interfaces.tokenizer import Tokenizer
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.answer_text import AnswerText
from maxserve.plugins.api.common.generation import SLICE, generate_text
from maxserve.plugins.tokenizers.folder import load_tokenizer

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
    return load_tokenizer(str(folder))


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
        self.tokenizer = tokenizer
        self.request = Request(id="r", prompt=(1, 2), params=SamplingParams(**params))

    async def deltas(self, *stop: str) -> AsyncGenerator[TextDelta, None]:
        text = AnswerText(self.tokenizer, self.request, (self.tokenizer.eos_token_id or 0,), stop)
        engine: Any = self.engine
        async with aclosing(generate_text(engine, [self.request], lambda index: text)) as deltas:
            async for index, delta in deltas:
                assert index == 0
                yield delta


def outputs(
    tokenizer: Tokenizer, text: str, size: int, finish: Any = "length", tail: tuple[int, ...] = ()
) -> list[Output]:
    """`text` as tokens, `size` to an output; the last one has `tail` and ends it."""
    ids = [*tokenizer.encode(text, add_special_tokens=False), *tail]
    cuts = [tuple(ids[i : i + size]) for i in range(0, len(ids), size)]
    return [Output(id="r", tokens=t, finish=finish if t is cuts[-1] else None, cached=3) for t in cuts]


async def whole(stream: AsyncGenerator[TextDelta, None]) -> tuple[str, TextDelta]:
    """The whole text, and the last delta."""
    deltas = [delta async for delta in stream]
    return "".join(delta.text for delta in deltas), deltas[-1]


@pytest.mark.parametrize("size", [1, 2, 7, 100])
async def test_deltas_make_the_text(tokenizer: Tokenizer, size: int) -> None:
    case = Case(tokenizer, outputs(tokenizer, "añ🦜 text", size))
    deltas = [delta async for delta in case.deltas()]
    assert "".join(p.text for p in deltas) == "añ🦜 text"
    assert all("\ufffd" not in p.text for p in deltas)
    assert [p.finish for p in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert deltas[-1].generated == sum(len(p.tokens) for p in deltas) == len("añ🦜 text".encode())
    assert deltas[-1].cached == 3
    assert case.engine.closed


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_the_token_that_ends_it_is_not_shown(tokenizer: Tokenizer, size: int) -> None:
    eos = tokenizer.eos_token_id or 0
    text, last = await whole(Case(tokenizer, outputs(tokenizer, "hi", size, "stop", (eos,))).deltas())
    assert (text, last.finish, last.generated) == ("hi", "stop", 3)
    x = tokenizer.encode("x", add_special_tokens=False)[0]
    by_id = Case(tokenizer, outputs(tokenizer, "hi", size, "stop", (x,)), stop_token_ids=(x,))
    assert (await whole(by_id.deltas()))[0] == "hi"
    at_length = Case(tokenizer, outputs(tokenizer, "hix", size), stop_token_ids=())
    assert (await whole(at_length.deltas()))[0] == "hix"


@pytest.mark.parametrize("size", [1, 2, 5, 100])
async def test_a_stop_string_aborts_the_rest(tokenizer: Tokenizer, size: int) -> None:
    case = Case(tokenizer, outputs(tokenizer, "one two three" + "!" * 50, size))
    deltas = [delta async for delta in case.deltas("zzz", "two t")]
    assert "".join(p.text for p in deltas) == "one "
    assert deltas[-1].finish == "stop"
    assert deltas[-1].generated == len("one two t")
    assert case.engine.closed
    if size == 1:
        assert case.engine.given == len("one two t")


async def test_what_is_held_back_comes_at_the_end(tokenizer: Tokenizer) -> None:
    text, last = await whole(Case(tokenizer, outputs(tokenizer, "one tw", 1)).deltas("two"))
    assert (text, last.finish) == ("one tw", "length")


async def test_closing_aborts(tokenizer: Tokenizer) -> None:
    case = Case(tokenizer, outputs(tokenizer, "long text", 1))
    deltas = case.deltas()
    await anext(deltas)
    await deltas.aclose()
    assert case.engine.closed
    assert case.engine.given == 1


async def test_failures_are_raised(tokenizer: Tokenizer) -> None:
    failed = Output(id="r", finish="error", error="out of pages")
    with pytest.raises(EngineError, match="out of pages"):
        await whole(Case(tokenizer, [failed]).deltas())
    with pytest.raises(WorkerDied):
        await whole(Case(tokenizer, [*outputs(tokenizer, "x", 1, None), WorkerDied("gone")]).deltas())
    with pytest.raises(EngineError, match="without saying why"):
        await whole(Case(tokenizer, outputs(tokenizer, "x", 1, None)).deltas())


class Numbers:
    """An engine whose request "5" gives the numbers 0 to 4 as tokens; it is the text of each answer as well."""

    def __init__(self, *, fail: str = "", pause: float = 0.0) -> None:
        self.fail = fail  # the request that fails at its end
        self.pause = pause
        self.begun: list[str] = []
        self.closed: list[str] = []
        self.most = 0

    def deltas(self, counts: Sequence[int | None], at_once: int | None = None) -> AsyncGenerator[tuple[int, Any], None]:
        """Those of a request for each of `counts`; None has no end."""
        requests = [Request(id=str(count), prompt=(1,), params=SamplingParams()) for count in counts]
        engine: Any = self
        return generate_text(engine, requests, lambda index: self, at_once)

    def add(self, output: Output) -> Any:
        return output

    async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        self.begun.append(request.id)
        self.most = max(self.most, len(self.begun) - len(self.closed))
        count = None if request.id == "None" else int(request.id)
        try:
            number = 0
            while number != count:
                await asyncio.sleep(self.pause)
                last = number + 1 == count and request.id != self.fail
                yield Output(id=request.id, tokens=(number,), finish="stop" if last else None)
                number += 1
            raise KeyError(request.id)
        finally:
            self.closed.append(request.id)


def numbers(items: Sequence[tuple[int, Any]], index: int) -> list[int]:
    return [output.tokens[0] for i, output in items if i == index]


@pytest.mark.parametrize("counts", [(3,), (3, 1, 2)])
async def test_all_deltas_come_in_their_order(counts: tuple[int, ...]) -> None:
    engine = Numbers()
    items = [item async for item in engine.deltas(counts)]
    for index, count in enumerate(counts):
        assert numbers(items, index) == list(range(count))
    assert sorted(engine.closed) == sorted(map(str, counts))


async def test_first_failure_ends_all() -> None:
    engine = Numbers(fail="2")
    with pytest.raises(KeyError):
        [item async for item in engine.deltas([None, 2])]
    assert sorted(engine.closed) == ["2", "None"]


async def test_closing_early_closes_all() -> None:
    engine = Numbers()
    stream = engine.deltas([None, 5])
    await anext(stream)
    await stream.aclose()
    assert sorted(engine.closed) == ["5", "None"]


async def test_an_answer_of_several_that_ends_without_a_reason_is_an_error() -> None:
    class Ends(Numbers):
        async def generate(self, request: Request) -> AsyncGenerator[Output, None]:
            yield Output(id=request.id, tokens=(1,))

    with pytest.raises(EngineError, match="without saying why"):
        [item async for item in Ends().deltas([1, 2])]


async def test_no_more_answers_are_made_at_once_than_are_allowed() -> None:
    engine = Numbers()
    got = [(index, output.tokens[0]) async for index, output in engine.deltas([3] * 200, at_once=50)]
    assert engine.most == 50
    assert sorted(got) == [(index, i) for index in range(200) for i in range(3)]


async def test_the_event_loop_has_turns_while_answers_begin() -> None:
    engine = Numbers(pause=0.01)
    seen: list[int] = []

    async def watch() -> None:
        while len(engine.begun) < 1000:
            seen.append(len(engine.begun))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    assert len([item async for item in engine.deltas([1] * 1000)]) == 1000
    await watching
    assert max(b - a for a, b in pairwise(seen)) <= 2 * SLICE


async def test_closing_early_ends_what_runs_and_begins_no_more() -> None:
    engine = Numbers()
    streams = engine.deltas([None] * 500, at_once=100)
    async with aclosing(streams):
        await anext(streams)
    assert len(engine.begun) == len(engine.closed) <= 100


async def test_a_failure_of_a_late_answer_ends_all() -> None:
    with pytest.raises(KeyError, match="7"):
        async for _ in Numbers(fail="7").deltas([1] * 90 + [7] + [1] * 9, at_once=10):
            pass
