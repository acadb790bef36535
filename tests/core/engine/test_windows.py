"""Pages that windows have passed: given back while their request runs, and never missed.

The model's next token depends on all that each of its layers sees, so a page that was given back too early, or whose
entry of another group's table was read, changes the text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from maxserve.core.engine.loop import Engine
from maxserve.core.interfaces.cache import CacheGroup
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from tests.core.engine.conftest import VOCAB, next_token

Make = Callable[..., Engine]
Run = Callable[..., dict[str, list[Output]]]

MIXED = (
    CacheGroup(layers=(0,)),
    CacheGroup(layers=(1,), window=20),
    CacheGroup(layers=(2,), window=20),
    CacheGroup(layers=(3,), chunk=24),
)
ALL = (CacheGroup(layers=(0,), window=20),)
MODELS = {"mixed": MIXED, "all layers": ALL}


def text(prompt: Sequence[int], groups: Sequence[CacheGroup], tokens: int) -> list[int]:
    """What the hashing model makes of a prompt."""
    history = list(prompt)
    for _ in range(tokens):
        history.append(sum(next_token(history[group.low(len(history) - 1) :]) for group in groups) % VOCAB)
    return history[len(prompt) :]


def prompts(seed: int, count: int, *, common: int = 120, own: int = 60) -> list[list[int]]:
    """Some that begin alike, of unlike lengths."""
    rng = random.Random(seed)
    start = [rng.randrange(8, VOCAB) for _ in range(common)]
    return [
        start[: rng.randrange(0, common)] + [rng.randrange(8, VOCAB) for _ in range(rng.randrange(1, own))]
        for _ in range(count)
    ]


def request(number: int, prompt: Sequence[int], tokens: int, **more: Any) -> Request:
    greedy = {"temperature": {"temperature": 0.0}}
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, fields=greedy)
    return Request(id=str(number), prompt=tuple(prompt), params=params, **more)


def texts(outputs: dict[str, list[Output]]) -> dict[str, list[int]]:
    return {id: [token for output in found for token in output.tokens] for id, found in outputs.items()}


@pytest.mark.parametrize("groups", MODELS.values(), ids=MODELS)
def test_a_long_text_holds_what_its_windows_need(make_engine: Make, groups: tuple[CacheGroup, ...]) -> None:
    engine = make_engine(groups=groups, pages=300, max_length=700, tokens=32)
    prompt = prompts(0, 1)[0]
    engine.add(request(0, prompt, 400))
    found: list[int] = []
    owned = []
    while engine.busy:
        for output in engine.step():
            found += output.tokens
        engine.check()
        owned.append(engine.stats().cache.owned)
    assert found == text(prompt, groups, 400)
    length, windowed = len(prompt) + 400, sum(group.bounded for group in groups)
    whole = -(-length // 16) * (len(groups) - windowed)
    assert whole + windowed <= max(owned) <= whole + windowed * 4  # 20 or 24 tokens, a prompt's chunk beside them
    assert max(owned) < len(groups) * length / 16 / 2


@pytest.mark.parametrize("groups", MODELS.values(), ids=MODELS)
def test_a_long_prompt_is_computed_in_fewer_pages_than_it_has(
    make_engine: Make, run: Run, groups: tuple[CacheGroup, ...]
) -> None:
    rng = random.Random(0)
    prompt = [rng.randrange(8, VOCAB) for _ in range(600)]
    whole = sum(not group.bounded for group in groups) * 39
    engine = make_engine(groups=groups, pages=whole + 5 * len(groups), max_length=620, tokens=32)
    engine.add(request(0, prompt, 20))
    assert texts(run(engine)) == {"0": text(prompt, groups, 20)}
    assert engine.stats().preemptions == 0


@pytest.mark.parametrize("groups", MODELS.values(), ids=MODELS)
def test_the_next_turn_finds_the_one_before(make_engine: Make, run: Run, groups: tuple[CacheGroup, ...]) -> None:
    engine = make_engine(groups=groups, pages=200, max_length=400)
    prompt = prompts(1, 1)[0]
    engine.add(request(0, prompt, 100))
    answer = texts(run(engine))["0"]
    longer = [*prompt, *answer, 11, 12, 13]
    engine.add(request(1, longer, 50))
    outputs = run(engine)["1"]
    assert texts({"1": outputs}) == {"1": text(longer, groups, 50)}
    assert outputs[0].cached == (len(prompt) + 99) // 16 * 16


CHUNKED: list[dict[str, Any]] = [{}, {"steps": 4}, {"overlap": True}, {"in_flight": True}]


@pytest.mark.parametrize("options", [*CHUNKED, {"chunked": False}], ids=str)
@pytest.mark.parametrize("groups", MODELS.values(), ids=MODELS)
def test_texts_do_not_depend_on_who_else_runs(
    make_engine: Make, groups: tuple[CacheGroup, ...], options: dict[str, Any]
) -> None:
    engine = make_engine(groups=groups, pages=1000, max_length=256, rows=4, tokens=48, **options)
    serve_crowd(engine, groups, prompts(3, 16))


@pytest.mark.parametrize("options", CHUNKED, ids=str)
@pytest.mark.parametrize(("groups", "pages"), [(MIXED, 36), (ALL, 9)], ids=MODELS)
def test_nor_on_who_takes_whose_pages(
    make_engine: Make, groups: tuple[CacheGroup, ...], pages: int, options: dict[str, Any]
) -> None:
    engine = make_engine(groups=groups, pages=pages, max_length=160, rows=8, tokens=16, **options)
    serve_crowd(engine, groups, prompts(4, 16, common=48, own=16))
    assert engine.stats().preemptions


def serve_crowd(engine: Engine, groups: Sequence[CacheGroup], sent: list[list[int]]) -> None:
    """Requests that begin alike come, and some go, at any time; their texts are what each gets alone."""
    rng = random.Random(3)
    wanted = {str(i): rng.randrange(1, 70) for i in range(len(sent))}
    found: dict[str, list[int]] = {id: [] for id in wanted}
    waiting, aborted, hits = list(range(len(sent))), set[str](), 0
    while engine.busy or waiting:
        while waiting and rng.random() < 0.3:
            i = waiting.pop(0)
            engine.add(request(i, sent[i], wanted[str(i)], priority=rng.choice([0, 0, 1])))
        if rng.random() < 0.02:
            aborted.add(str(rng.randrange(len(sent))))
            engine.abort(aborted)
        for output in engine.step():
            assert output.error is None
            found[output.id] += output.tokens
            hits += output.cached
        engine.check()
    for i, prompt in enumerate(sent):
        expected, got = text(prompt, groups, wanted[str(i)]), found[str(i)]
        assert got == (expected[: len(got)] if str(i) in aborted else expected)
    assert hits
