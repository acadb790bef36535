"""Who serves a constraint, how often it is compiled, and what the client of a slow one is told."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.components import GrammarBackend
from maxserve.core.errors import GrammarUnsupported, RequestError
from maxserve.core.registry import Entry, Registry
from maxserve.core.server.constraints import Constraints

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Compiler:
    """Refuses what its `refuses` says, and takes as long as `leave` says."""

    def __init__(self, refuses: str = "", invalid: str = "") -> None:
        self.refuses, self.invalid = refuses, invalid
        self.compiled: list[str] = []
        self.leave = threading.Event()
        self.leave.set()

    def check(self, kind: str, text: str) -> None:
        if text in (self.refuses, self.invalid):
            raise GrammarUnsupported(f"keyword {text!r} at $ is not supported", path="$", invalid=text == self.invalid)

    def cached(self, kind: str, text: str) -> bool:
        return text in self.compiled

    def compile(self, kind: str, text: str) -> Any:
        assert self.leave.wait(10)
        self.compiled.append(text)
        return Matcher


class Matcher:
    def accept(self, token: int) -> None: ...
    def rollback(self, count: int) -> None: ...
    def finished(self) -> bool:
        return False

    def fill(self, row: Any) -> None:
        row[:] = -1


@pytest.fixture
def quick() -> Compiler:
    return Compiler(refuses="hard", invalid="wrong")


@pytest.fixture
def slow() -> Compiler:
    return Compiler(invalid="never")


@pytest.fixture
def make(quick: Compiler, slow: Compiler) -> Any:
    def make(backend: str = "auto", enabled: bool = True) -> Constraints:
        def entry(name: str, compiler: Compiler, priority: int) -> Entry[GrammarBackend]:
            component = GrammarBackend(
                name=name, build=lambda context: compiler, accepts=frozenset({"regex"}), priority=priority
            )
            return Entry(
                kind="grammar_backend",
                component=component,
                plugin="test",
                origin="",
                distribution="",
                version="",
                path="",
                where="",
            )

        registry = Registry("grammar_backend", [entry("quick", quick, 2), entry("slow", slow, 1)])
        sampling = SimpleNamespace(enable_structured_output=enabled, structured_output_backend=backend)
        context: Any = SimpleNamespace(
            settings=SimpleNamespace(sampling=sampling),
            host=SimpleNamespace(
                grammar_backends=registry, build=lambda entry, context: entry.component.build(context)
            ),
            model=SimpleNamespace(name="m", path="", vocab_size=40, eos_token_ids=(0,)),
            tokenizer=SimpleNamespace(special_ids=frozenset(), token_bytes=lambda id: b"x"),
            sections={},
        )
        return Constraints(context)

    return make


async def test_the_first_that_can_serves(make: Any, quick: Compiler, slow: Compiler) -> None:
    constraints = make()
    assert (await constraints.choose("regex", "easy", param="p")).backend == "quick"
    assert (await constraints.choose("regex", "hard", param="p")).backend == "slow"
    assert (quick.compiled, slow.compiled) == (["easy"], ["hard"])


async def test_an_index_that_is_there_is_used(make: Any) -> None:
    constraints = make()
    assert (await constraints.choose("regex", "easy", param="p")).backend == "quick"
    assert (await constraints.choose("regex", "easy", param="p", backend="slow")).backend == "slow"
    assert (await constraints.choose("regex", "easy", param="p")).backend == "slow"


async def test_what_is_wrong_is_refused_by_the_first(make: Any, slow: Compiler) -> None:
    with pytest.raises(RequestError, match=r"^field: keyword 'wrong' at \$ is not supported$") as raised:
        await make().choose("regex", "wrong", param="field")
    assert (raised.value.status, raised.value.param, raised.value.code) == (400, "field", "invalid_regex")
    assert not slow.compiled


async def test_many_at_once_compile_once(make: Any, quick: Compiler) -> None:
    constraints = make()
    found = await asyncio.gather(*(constraints.choose("regex", "easy", param="p") for _ in range(20)))
    assert {constraint.backend for constraint in found} == {"quick"}
    assert quick.compiled == ["easy"]


async def test_who_waits_too_long_is_told_so_and_nobody_else_waits(make: Any, slow: Compiler) -> None:
    constraints = make()
    constraints.longest = 0.05
    slow.leave.clear()
    ticks = 0
    waiting = asyncio.ensure_future(constraints.choose("regex", "hard", param="p"))
    while not waiting.done():
        ticks += 1
        await asyncio.sleep(0.005)
    with pytest.raises(RequestError, match=r"p: compiling it took longer than 0\.05 s"):
        await waiting
    assert ticks > 2
    assert (await constraints.choose("regex", "easy", param="p")).backend == "quick"
    slow.leave.set()
    deadline = time.monotonic() + 10
    while not slow.compiled and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    constraints.longest = 10
    assert (await constraints.choose("regex", "hard", param="p")).backend == "slow"
    assert slow.compiled == ["hard"]


async def test_switched_off_and_unknown_names(make: Any) -> None:
    with pytest.raises(RequestError, match="--no-enable-structured-output"):
        await make(enabled=False).choose("regex", "easy", param="p")
    with pytest.raises(RequestError, match="no grammar back end 'other'; there are quick, slow"):
        await make().choose("regex", "easy", param="p", backend="other")
    with pytest.raises(RequestError, match="'slow' does not take choice"):
        await make().choose("choice", ["a"], param="p", backend="slow")


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("choice", [], "1 to 1000"),
        ("choice", ["a", 3], "list of strings"),
        ("choice", [""], "empty"),
        ("regex", "", "something in it"),
        ("regex", 3, "something in it"),
        ("regex", "x" * 300_000, "300000 bytes"),
        ("regex", "\ud800", "Unicode"),
        ("json_schema", 3, "object"),
        ("json_schema", "{", "no JSON"),
    ],
)
async def test_values_that_are_none(make: Any, kind: str, value: Any, words: str) -> None:
    with pytest.raises(RequestError, match=words) as raised:
        await make().choose(kind, value, param="p")
    assert raised.value.param == "p"


async def test_deep_schemas_are_refused(make: Any) -> None:
    schema: Any = {}
    for _ in range(70):
        schema = {"items": schema}
    with pytest.raises(RequestError, match="nested more than 64 deep"):
        await make().choose("json_schema", schema, param="p")
