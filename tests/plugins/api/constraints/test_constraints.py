"""The choice of a back end for a constraint, how often it is compiled, and what the client of a slow one is told."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.grammar import GrammarBackend, GrammarChoice
from maxserve.core.interfaces.request import Constraint
from maxserve.core.registry.entries import Entry, Registry
from maxserve.plugins.api.constraints.constraints import Constraints
from maxserve.plugins.api.constraints.messages import Outcome

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Compiler:
    """Refuses what its `refuses` and `invalid` say, and takes as long as `leave` says."""

    def __init__(self, refuses: str = "", invalid: str = "") -> None:
        self.refuses, self.invalid = refuses, invalid
        self.compiled: list[str] = []
        self.stopped: list[str] = []
        self.leave = asyncio.Event()
        self.leave.set()

    async def outcome(self, kind: str, text: str) -> Outcome:
        if text in (self.refuses, self.invalid):
            return Outcome(refused=f"keyword {text!r} at $ is not supported", path="$", invalid=text == self.invalid)
        try:
            await self.leave.wait()
        except asyncio.CancelledError:
            self.stopped.append(text)
            raise
        self.compiled.append(text)
        return Outcome(kind="own", text=f"<{text}>", warnings=("something was left out",), seconds=len(text) / 10)


class Tries:
    """Stands for the sandbox."""

    def __init__(self, compilers: dict[str, Compiler]) -> None:
        self.compilers = compilers
        self.closed = False

    async def outcome(self, backend: str, kind: str, text: str) -> Outcome:
        return await self.compilers[backend].outcome(kind, text)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def quick() -> Compiler:
    return Compiler(refuses="hard", invalid="wrong")


@pytest.fixture
def slow() -> Compiler:
    return Compiler(invalid="never")


@pytest.fixture
def make(quick: Compiler, slow: Compiler) -> Any:
    def make(backend: str = "auto", enabled: bool = True) -> Constraints:
        def entry(name: str, priority: int) -> Entry[GrammarBackend]:
            component = GrammarBackend(name=name, build="module:none", accepts=frozenset({"regex"}), priority=priority)
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

        registry = Registry("grammar_backend", [entry("quick", 2), entry("slow", 1)])
        context: Any = SimpleNamespace(
            grammars=GrammarChoice(enabled=enabled, backend=backend),
            components=SimpleNamespace(of=lambda kind: registry),
        )
        return Constraints(context, Tries({"quick": quick, "slow": slow}))

    return make


async def test_the_first_that_can_serves(make: Any, quick: Compiler, slow: Compiler) -> None:
    constraints = make()
    assert (await constraints.choose("regex", "easy", param="p")).constraint.backend == "quick"
    assert (await constraints.choose("regex", "hard", param="p")).constraint.backend == "slow"
    assert (quick.compiled, slow.compiled) == (["easy"], ["hard"])


async def test_an_index_that_is_there_is_used(make: Any) -> None:
    constraints = make()
    assert (await constraints.choose("regex", "easy", param="p")).constraint.backend == "quick"
    assert (await constraints.choose("regex", "easy", param="p", backend="slow")).constraint.backend == "slow"
    assert (await constraints.choose("regex", "easy", param="p")).constraint.backend == "slow"


async def test_what_is_wrong_is_refused_by_the_first(make: Any, slow: Compiler) -> None:
    with pytest.raises(RequestError, match=r"^field: keyword 'wrong' at \$ is not supported$") as raised:
        await make().choose("regex", "wrong", param="field")
    assert (raised.value.status, raised.value.param, raised.value.code) == (400, "field", "invalid_regex")
    assert not slow.compiled


async def test_many_at_once_compile_once(make: Any, quick: Compiler) -> None:
    constraints = make()
    found = await asyncio.gather(*(constraints.choose("regex", "easy", param="p") for _ in range(20)))
    assert {chosen.constraint.backend for chosen in found} == {"quick"}
    assert quick.compiled == ["easy"]


async def test_what_was_compiled_is_what_travels(make: Any) -> None:
    chosen = await make().choose("regex", "easy", param="p")
    assert chosen.constraint == Constraint(kind="own", text="<easy>", backend="quick", slow=True)
    assert chosen.warnings == ("something was left out",)
    assert not (await make().choose("regex", "e", param="p")).constraint.slow


async def test_who_waits_too_long_is_told_so_and_nobody_else_waits(make: Any, slow: Compiler) -> None:
    constraints = make()
    constraints.longest = 0.05
    slow.leave.clear()
    waiting = asyncio.ensure_future(constraints.choose("regex", "hard", param="p"))
    assert (await constraints.choose("regex", "easy", param="p")).constraint.backend == "quick"
    with pytest.raises(RequestError, match=r"p: compiling it took longer than 0\.05 s"):
        await waiting
    await asyncio.sleep(0)
    assert slow.stopped == ["hard"]
    slow.leave.set()
    constraints.longest = 10
    assert (await constraints.choose("regex", "hard", param="p")).constraint.backend == "slow"
    assert slow.compiled == ["hard"]


async def test_it_is_stopped_when_the_last_who_waits_has_gone(make: Any, slow: Compiler) -> None:
    constraints = make()
    slow.leave.clear()
    waiting = [asyncio.ensure_future(constraints.choose("regex", "hard", param="p")) for _ in range(2)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    await asyncio.sleep(0.01)
    assert not slow.stopped
    waiting[1].cancel()
    await asyncio.sleep(0.01)
    assert slow.stopped == ["hard"]


async def test_outcomes_are_bounded_by_their_bytes(make: Any, quick: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maxserve.plugins.api.constraints.constraints.KEPT", 20_000)
    constraints = make()
    for i in range(10):
        await constraints.choose("regex", f"{i}" * 4_000, param="p")
    await constraints.choose("regex", "9" * 4_000, param="p")  # is remembered
    await constraints.choose("regex", "0" * 4_000, param="p")  # is not
    await constraints.choose("regex", "x" * 30_000, param="p")  # nor ever will be
    assert [text[0] for text in quick.compiled] == [*"0123456789", "0", "x"]
    assert constraints._outcomes.currsize <= 20_000


async def test_closing(make: Any) -> None:
    constraints = make()
    constraints.close()
    assert constraints._tries.closed


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
