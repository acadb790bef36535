"""Constrained requests in the engine: masks, ends, failures, and everything that runs beside them."""

from __future__ import annotations

import ctypes
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maxserve
from maxserve.core.engine.grammar_state import GrammarState
from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.errors import EngineError
from maxserve.core.interfaces.grammar import allow_tokens
from maxserve.core.interfaces.request import Constraint, Request, SamplingParams, ThoughtTokens
from maxserve.plugins.api.constraints import process as constraint_process
from tests.core.engine.conftest import drafting_of, recalling

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"enum": [1, 22, 333]}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)
BACKENDS = ("llguidance", "outlines")
OPTIONS = {
    "plain": {},
    "overlap": {"enable_overlap_scheduler": True},
    "several steps": {"max_num_steps": 4},
    "small chunks": {"max_batch_input_tokens": 3, "enable_prefix_caching": False},
    "few pages": {"max_batch_size": 3, "kv_cache_page_size": 16},
}


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def llms(folder: Path) -> Callable[[str], Any]:
    made: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in made:
            made[name] = maxserve.LLM(str(folder), **{"max_batch_size": 8, **OPTIONS[name]})
        return made[name]

    return get


def constraint(kind: str, text: str, backend: str = "llguidance") -> Constraint:
    return Constraint(kind=kind, text=text, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("options", OPTIONS)
def test_texts_stay_within_their_grammar(llms: Callable[[str], Any], options: str, backend: str) -> None:
    llm = llms(options)
    for fields in ({"temperature": 0}, *({"temperature": 1, "seed": seed} for seed in range(3))):
        wanted = constraint("json_schema", SCHEMA, backend)
        for done in llm.generate(["x", "the quick brown fox"], max_tokens=120, constraint=wanted, **fields):
            assert done.finish == "stop"
            found = json.loads(done.text)
            assert len(found["name"]) <= 6
            assert found["age"] in (1, 22, 333)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_seed_gives_the_same_text_however_it_is_run(llms: Callable[[str], Any], options: str) -> None:
    wanted = constraint("regex", "[a-z]{3,8}-[0-9]{2}")
    texts = [
        [d.text for d in llms(name).generate(["x", "a page"], max_tokens=40, seed=5, constraint=wanted)]
        for name in ("plain", options)
    ]
    assert texts[0] == texts[1]


def test_others_are_not_touched(llms: Callable[[str], Any]) -> None:
    llm = llms("plain")
    (alone,) = llm.generate("a page", max_tokens=10, temperature=0)
    engine, outputs = llm._engine, []
    prompt = tuple(llm.tokenizer.encode("a page", add_special_tokens=True))
    engine.add(Request(id="free", prompt=prompt, params=llm.params(max_tokens=10, temperature=0)))
    engine.add(
        Request(
            id="bound", prompt=(5,), params=llm.params(max_tokens=30, constraint=constraint("choice", '["yes", "no"]'))
        )
    )
    while engine.busy:
        outputs += engine.next_outputs()
    assert tuple(t for o in outputs if o.id == "free" for t in o.tokens) == alone.tokens
    assert llm.tokenizer.decode([t for o in outputs if o.id == "bound" for t in o.tokens]) in ("yes", "no")


@pytest.mark.parametrize("fields", [{"ignore_eos": True}, {"top_k": 1}, {"top_p": 0.01}, {"min_p": 1.0}])
def test_other_fields_leave_the_grammar_in_force(llms: Callable[[str], Any], fields: dict[str, Any]) -> None:
    wanted = constraint("regex", "[0-9]{2,4}")
    for seed in range(4):
        (done,) = llms("plain").generate("x", max_tokens=30, seed=seed, constraint=wanted, **fields)
        assert re.fullmatch("[0-9]{2,4}", done.text)
        assert done.finish == "stop"
        assert len(done.text) == 4 or not fields.get("ignore_eos")


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("needed", [False, True])
def test_thoughts_before_it_are_free_until_they_close(llms: Callable[[str], Any], options: str, needed: bool) -> None:
    """The text of a constraint begins behind the tokens that lead to it; no end comes before that."""
    llm = llms(options)
    opening, closing, *lead = llm.tokenizer.encode("abcd", add_special_tokens=False)
    lead, forbidden = tuple(lead), tuple(llm.tokenizer.encode("z", add_special_tokens=False))
    begun = ThoughtTokens(closing=closing, lead=lead, forbidden=forbidden)
    for thoughts in (begun, replace(begun, opening=(opening, opening), needed=needed)):
        wanted = replace(constraint("regex", "[0-9]{2}"), thoughts=thoughts)
        bias = {str(closing): 6.0, str(opening): 4.0}
        for seed in range(4):
            (done,) = llm.generate("x", max_tokens=200, temperature=1, seed=seed, logit_bias=bias, constraint=wanted)
            tokens = list(done.tokens)
            if not needed and thoughts.opening and tokens[0] != opening:
                assert re.fullmatch("[0-9]{2}", done.text)
                continue
            assert tuple(tokens[: len(thoughts.opening)]) == thoughts.opening
            assert not set(tokens) & set(forbidden)
            end = tokens.index(closing, len(thoughts.opening)) + 1
            assert tuple(tokens[end : end + len(lead)]) == lead
            assert re.fullmatch("[0-9]{2}", llm.tokenizer.decode(tokens[end + len(lead) :]))
            assert done.finish == "stop"


def test_max_tokens_cuts_it(llms: Callable[[str], Any]) -> None:
    (done,) = llms("plain").generate("x", max_tokens=2, constraint=constraint("regex", "[a-z]{40}"))
    assert (done.finish, len(done.tokens)) == ("length", 2)


def test_a_stop_string_ends_it(llms: Callable[[str], Any]) -> None:
    (done,) = llms("plain").generate(
        "x", max_tokens=30, stop=["-"], constraint=constraint("regex", "[a-z]{2}-[0-9]{9}")
    )
    assert (done.finish, len(done.text)) == ("stop", 2)


def test_what_cannot_be_compiled_ends_its_own_request(llms: Callable[[str], Any]) -> None:
    llm = llms("plain")
    for wanted in (constraint("regex", "("), constraint("regex", "a", "absent")):
        with pytest.raises(EngineError, match="grammar"):
            llm.generate("x", constraint=wanted)
    assert llm.generate("x", max_tokens=2)[0].finish == "length"


def stack_of_this_thread() -> int:
    """In bytes, as the threads library of Linux says."""
    attributes, size, base = ctypes.create_string_buffer(64), ctypes.c_size_t(), ctypes.c_void_p()
    libc = ctypes.CDLL(None)
    libc.pthread_self.restype = ctypes.c_void_p
    assert libc.pthread_getattr_np(ctypes.c_void_p(libc.pthread_self()), attributes) == 0
    assert libc.pthread_attr_getstack(attributes, ctypes.byref(base), ctypes.byref(size)) == 0
    return size.value


class Slow:
    """A back end whose compilations wait for leave; its matchers allow one token and fail at another."""

    def __init__(self) -> None:
        self.leave = threading.Event()
        self.compiled: list[str] = []
        self.stack = 0

    def compile(self, kind: str, text: str) -> Callable[[], Any]:
        assert text == "quick" or self.leave.wait(10)
        self.compiled.append(text)
        self.stack = stack_of_this_thread()
        return lambda: Fails(text)


class Fails:
    def __init__(self, where: str) -> None:
        self._where = where

    def accept(self, token: int) -> None:
        if self._where == "accept":
            raise ValueError("broken")

    def rollback(self, count: int) -> None: ...

    def fill(self, row: Any) -> None:
        if self._where == "fill":
            raise ValueError("broken")
        row[:] = -1

    def finished(self) -> bool:
        return False


@pytest.fixture
def slow(folder: Path) -> Any:
    llm, back_end = maxserve.LLM(str(folder), max_batch_size=4), Slow()
    llm._engine._grammars._compilers = lambda name: back_end
    yield llm._engine, back_end
    llm._engine.close()


def finished(engine: Any, *ids: str) -> dict[str, Any]:
    ends: dict[str, Any] = {}
    while not ends.keys() >= set(ids):
        ends |= {output.id: output for output in engine.next_outputs() if output.finish is not None}
    return ends


def request(id: str, text: str | None = None) -> Request:
    wanted = None if text is None else constraint("regex", text, "slow")
    return Request(id=id, prompt=(5, 6), params=SamplingParams(max_tokens=6, ignore_eos=True, constraint=wanted))


def test_a_request_waits_for_its_grammar_and_the_others_go_on(slow: Any) -> None:
    engine, back_end = slow
    engine.add(request("bound", "fine"))
    engine.add(request("free"))
    assert finished(engine, "free")["free"].finish == "length"
    assert engine.busy
    assert engine.pause > 1
    back_end.leave.set()
    assert finished(engine, "bound")["bound"].finish == "length"
    engine.check()


def test_slow_grammars_do_not_hold_up_quick_ones(slow: Any) -> None:
    engine, back_end = slow
    for i in range(4):
        wanted = Constraint(kind="regex", text=f"slow{i}", backend="slow", slow=True)
        params = SamplingParams(max_tokens=6, ignore_eos=True, constraint=wanted)
        engine.add(Request(id=f"slow{i}", prompt=(5, 6), params=params))
    engine.add(request("quick", "quick"))
    assert finished(engine, "quick")["quick"].finish == "length"
    engine.abort(["slow2", "slow3"])
    back_end.leave.set()
    finished(engine, "slow0", "slow1")
    assert not engine.busy
    assert "slow3" not in back_end.compiled
    engine.check()


def test_grammars_are_made_with_room_for_recursion(slow: Any) -> None:
    """The threads have several times the stack that a constraint was tried with."""
    engine, back_end = slow
    back_end.leave.set()
    engine.add(request("deep", "deep"))
    finished(engine, "deep")
    assert back_end.stack >= 3 * constraint_process.STACK


def test_an_aborted_request_drops_its_grammar(slow: Any) -> None:
    engine, back_end = slow
    engine.add(request("bound", "fine"))
    engine.abort(["bound"])
    assert not engine.busy
    back_end.leave.set()
    engine.add(request("bound", "fine"))
    assert finished(engine, "bound")["bound"].finish == "length"
    engine.check()


@pytest.mark.parametrize("where", ["accept", "fill"])
def test_a_matcher_that_fails_ends_its_own_request(slow: Any, where: str) -> None:
    engine, back_end = slow
    back_end.leave.set()
    engine.add(request("bound", where))
    engine.add(request("fine", "fine"))
    ends = finished(engine, "bound", "fine")
    assert ends["bound"].finish == "error"
    assert "broken" in ends["bound"].error
    assert ends["fine"].finish == "length"
    engine.check()


def requests_of(llm: Any, wanted: Constraint, bias: dict[str, float] | None = None) -> list[Request]:
    """Greedy and sampled ones under a constraint, with one beside them that has none."""
    prompt = tuple(llm.tokenizer.encode("the quick brown fox", add_special_tokens=True))
    given: list[dict[str, Any]] = [{"temperature": 0}, *({"temperature": 1, "seed": seed} for seed in range(4))]
    params = [llm.params(max_tokens=60, constraint=wanted, logit_bias=bias, **fields) for fields in given]
    params.append(llm.params(max_tokens=60, temperature=0))
    return [Request(id=str(i), prompt=prompt, params=each) for i, each in enumerate(params)]


def outcomes(engine: Any, requests: list[Request]) -> dict[str, tuple[list[int], str | None]]:
    """Tokens and end of each."""
    found: dict[str, tuple[list[int], str | None]] = {request.id: ([], None) for request in requests}
    for request in requests:
        engine.add(request)
    while engine.busy:
        for output in engine.next_outputs():
            assert output.error is None
            found[output.id] = (found[output.id][0] + list(output.tokens), output.finish)
    return found


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [0.0, 0.3])
@pytest.mark.parametrize("thinking", [False, True])
def test_drafts_change_no_text_within_a_grammar(
    llms: Callable[[str], Any], backend: str, wrong: float, thinking: bool
) -> None:
    """Also where thoughts end, and the grammar begins, amid the drafts of a step."""
    llm = llms("plain")
    wanted, bias = constraint("json_schema", SCHEMA, backend), None
    if thinking:
        opening, closing, *lead = llm.tokenizer.encode("abcd", add_special_tokens=False)
        thoughts = ThoughtTokens(closing=closing, lead=tuple(lead), opening=(opening,))
        wanted, bias = replace(wanted, thoughts=thoughts), {str(closing): 6.0, str(opening): 4.0}
    requests = requests_of(llm, wanted, bias)
    expected = outcomes(llm._engine, requests)
    size = llm._engine.info.vocab_size
    drafter = recalling({id: tokens for id, (tokens, _) in expected.items()}, wrong, size)
    drafting = drafting_of(drafter, 6, size)
    engine = Engine(replace(llm._engine._parts, drafting=drafting))
    assert outcomes(engine, requests) == expected
    engine.check()
    drafting.insist()
    assert engine.stats().accepted_tokens > engine.stats().draft_tokens / 4


def test_without_rollback_a_grammar_has_no_drafts(llms: Callable[[str], Any]) -> None:
    llm = llms("plain")
    requests = requests_of(llm, constraint("regex", "[a-z]{20}"))[:1]
    expected = outcomes(llm._engine, requests)
    drafter = recalling({id: tokens for id, (tokens, _) in expected.items()}, 0.0, 1)
    drafting = drafting_of(drafter, 6, llm._engine.info.vocab_size, rolls_back=False)
    engine = Engine(replace(llm._engine._parts, drafting=drafting))
    assert outcomes(engine, requests) == expected
    assert engine.stats().draft_tokens == 0


class NoDrafts:
    """A drafter without an idea."""

    def propose(self, step: Any) -> list[list[int]]:
        return [[] for _ in step.sequences]


WORDS = "(the certain words of a form, always the same: )[a-z]{8}( and its end, which is the same)"


@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_that_a_grammar_leaves_no_choice_about_are_drafts(llms: Callable[[str], Any], backend: str) -> None:
    llm = llms("plain")
    requests = requests_of(llm, constraint("regex", WORDS, backend))
    plain = Engine(replace(llm._engine._parts))
    expected = outcomes(plain, requests)
    size = llm._engine.info.vocab_size
    drafting = drafting_of(NoDrafts(), 6, size)
    engine = Engine(replace(llm._engine._parts, drafting=drafting))
    assert outcomes(engine, requests) == expected
    stats = engine.stats()
    assert stats.accepted_tokens == stats.draft_tokens > 0
    assert stats.steps < plain.stats().steps
    engine.check()
    drafting.insist()


class CountingMatcher:
    """Allows what a list says, behind so many tokens, and counts what it is asked."""

    def __init__(self, allowed: list[list[int]]) -> None:
        self.allowed = allowed
        self.at = self.asked = 0

    def accept(self, token: int) -> None:
        assert token in self.allowed[self.at]
        self.at += 1

    def rollback(self, count: int) -> None:
        self.at -= count

    def fill(self, row: Any) -> None:
        self.asked += 1
        allow_tokens(row, self.allowed[self.at])

    def finished(self) -> bool:
        return self.at == len(self.allowed)


def test_what_is_forced_is_asked_of_the_matcher_once() -> None:
    matcher = CountingMatcher([[3], [40], [1, 2], [5], [6]])
    state = GrammarState(matcher, (7,), 2, keeps_on=False)
    assert state.forced(9) == [3, 40]
    assert state.forced(1) == [3]
    assert state.allows([3, 40, 2, 5, 6]) == 5
    assert state.allows([3, 40, 1, 5, 9]) == 4
    assert (matcher.at, matcher.asked) == (0, 7), "behind each of 3 40 2 5, and of 1 5"
    for token in (3, 40):
        assert not state.take(token)
    row = np.zeros(2, dtype=np.int32)
    state.fill(row)
    assert row.tolist() == [0b110, 0]
    assert state.forced(9) == []
    assert matcher.asked == 8
    assert not state.take(1)
    assert state.forced(9) == [5, 6], "up to the end of the text"
    assert matcher.at == 3
    assert state.fault is None


def test_without_drafts_nothing_is_copied() -> None:
    state = GrammarState(CountingMatcher([[3], [4]]), (7,), 2, keeps_on=False)
    state.fill(np.zeros(2, dtype=np.int32))
    assert not state._rows
    assert state.forced(1) == [3]
    assert list(state._rows) == [0]


def test_a_matcher_that_fails_forces_nothing() -> None:
    matcher = CountingMatcher([])
    state = GrammarState(matcher, (7,), 2, keeps_on=False)
    assert state.forced(3) == []
    assert state.fault is not None
