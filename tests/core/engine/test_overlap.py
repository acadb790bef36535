"""With overlap, a step is launched before the tokens of the one before it are known; no text shows it."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.engine.draw import Stage
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.plugins.schedulers.continuous import Continuous

VOCAB, EOS = 211, 7
GREEDY = {"temperature": {"temperature": 0.0}}
HOT = {"temperature": {"temperature": 2.0}}

Run = Callable[..., dict[str, list[Output]]]


def next_token(tokens: list[int]) -> int:
    return (sum((i + 1) * (t + 3) for i, t in enumerate(tokens)) * 31 + 17) % VOCAB


def texts(outputs: dict[str, list[Output]]) -> dict[str, tuple[list[int], str | None]]:
    return {id: ([t for o in found for t in o.tokens], found[-1].finish) for id, found in outputs.items()}


def requests(seed: int, count: int, *, fields: Any = GREEDY) -> list[Request]:
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(48)]
    found = []
    for i in range(count):
        own = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 90))]
        stops = tuple(rng.sample(range(VOCAB), 10)) if rng.random() < 0.3 else ()
        params = SamplingParams(
            max_tokens=rng.randrange(1, 40), ignore_eos=rng.random() < 0.5, seed=i, stop_token_ids=stops, fields=fields
        )
        prompt = tuple((shared if rng.random() < 0.5 else []) + own)
        found.append(Request(id=str(i), prompt=prompt, params=params))
    return found


def prompt_before_eos(length: int) -> tuple[int, ...]:
    """A prompt of so many tokens that the hashing model ends at once."""
    return next((0, i, *range(2, length)) for i in range(VOCAB) if next_token([0, i, *range(2, length)]) == EOS)


class Never:
    """No token twice in an answer: a transform that must know every token before."""

    def prepare(self, rows: Any) -> list[torch.Tensor]:
        return [torch.from_numpy(t[n:].copy()) for t, n in zip(rows.tokens, rows.prompt_lengths, strict=True)]

    def apply(self, logits: torch.Tensor, state: list[torch.Tensor]) -> torch.Tensor:
        for row, used in enumerate(state):
            logits[row, used] = -torch.inf
        return logits


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks in flight": {"tokens": 24, "in_flight": True},
    "small cache": {"pages": 13, "tokens": 48},
}


@pytest.mark.parametrize("fields", [GREEDY, HOT], ids=["greedy", "seeded"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_texts_are_those_of_steps_one_after_another(make_engine: Any, run: Run, options: Any, fields: Any) -> None:
    """Also where the draw depends on all tokens before, and with stop tokens, limits and preemption."""
    found = []
    for overlap in (False, True):
        engine = make_engine(overlap=overlap, stages=[Stage.of("never", Never(), keeps_argmax=False)], **options)
        for request in requests(11, 20, fields=fields):
            engine.add(request)
        found.append(texts(run(engine)))
    assert found[0] == found[1]
    assert {finish for _, finish in found[0].values()} == {"stop", "length"}


def test_the_next_step_is_planned_and_launched_while_the_device_is_busy(make_engine: Any) -> None:
    finished, freed = threading.Event(), threading.Event()

    class Slow:
        def __init__(self, model: Any) -> None:
            self.model = model
            self.logits = model.logits

        def forward(self, step: Any) -> Any:
            assert freed.wait(30), "no step was planned while the first forward pass ran"
            finished.set()
            return self.model.forward(step)

    class Frees:
        """Lets the first forward pass go on when the second step is planned."""

        def __init__(self, policy: Any) -> None:
            self.policy, self.calls = policy, 0

        def plan(self, view: Any, plan: Any) -> None:
            self.calls += 1
            if self.calls == 2:
                assert not finished.is_set()
                freed.set()
            self.policy.plan(view, plan)

    inner = make_engine()
    engine = make_engine(
        overlap=True,
        model=Slow(inner._parts.runner._model),
        policy=Frees(Continuous(type("C", (), {"limits": inner._limits})())),  # type: ignore[arg-type]
    )
    engine.add(Request(id="a", prompt=(1, 2, 3), params=SamplingParams(max_tokens=3, ignore_eos=True, fields=GREEDY)))
    assert engine.step() == []
    assert [len(o.tokens) for o in engine.step()] == [1]
    assert [len(o.tokens) for o in (*engine.step(), *engine.step())] == [1, 1]
    assert not engine.busy


def test_a_wasted_step_leaves_nothing_in_the_prefix_cache(make_engine: Any, run: Run) -> None:
    """The end token would complete a page, and the step too many computes it."""
    prompt = prompt_before_eos(15)
    counts = []
    for overlap in (False, True):
        engine = make_engine(overlap=overlap)
        engine.add(Request(id="a", prompt=prompt, params=SamplingParams(max_tokens=9, fields=GREEDY)))
        assert texts(run(engine)) == {"a": ([EOS], "stop")}
        counts.append(engine.stats())
        assert engine._cache.peek(np.array([*prompt, EOS, 1]), "") == 0
    assert counts[1].steps == counts[0].steps + 1, "this was to be a wasted step"
    assert counts[1].generated_tokens == counts[0].generated_tokens == 1


def test_the_last_token_allowed_costs_no_wasted_step(make_engine: Any, run: Run) -> None:
    engine = make_engine(overlap=True)
    params = SamplingParams(max_tokens=4, ignore_eos=True, fields=GREEDY)
    engine.add(Request(id="a", prompt=(1, 2, 3), params=params))
    run(engine)
    assert engine.stats().steps == 4


def test_rows_and_pages_stay_taken_until_the_step_that_uses_them_is_done(make_engine: Any, run: Run) -> None:
    engine = make_engine(overlap=True)
    engine.add(Request(id="a", prompt=(1,) * 40, params=SamplingParams(max_tokens=9, fields=GREEDY)))
    engine.step()
    engine.abort(["a"])
    engine.check()
    assert engine.stats().cache.owned == 3
    assert engine.busy
    assert run(engine) == {}
    assert engine.stats().cache.owned == 0


def test_an_id_may_come_again_while_its_first_step_is_on_its_way(make_engine: Any, run: Run) -> None:
    engine = make_engine(overlap=True)
    engine.add(Request(id="a", prompt=(1, 2, 3), params=SamplingParams(max_tokens=5, ignore_eos=True, fields=GREEDY)))
    engine.step()
    engine.abort(["a"])
    prompt = (9, 8, 7, 6)
    engine.add(Request(id="a", prompt=prompt, params=SamplingParams(max_tokens=1, ignore_eos=True, fields=GREEDY)))
    assert texts(run(engine)) == {"a": ([next_token([*prompt])], "length")}


@pytest.mark.parametrize("mode", [{"overlap": True}, {"steps": 4}, {}], ids=["overlap", "steps", "plain"])
@pytest.mark.parametrize("seed", range(6))
def test_comings_and_goings_at_any_time(make_engine: Any, seed: int, mode: Any) -> None:
    """Requests arrive and are given up between steps, batches fail, pages are few: the rest get their texts."""
    rng = random.Random(seed)
    engine = make_engine(pages=16, tokens=40, in_flight=seed % 2 == 1, failure_percent=3.0 * (seed % 3), **mode)
    wanted = requests(seed, 40)
    got: dict[str, list[Output]] = {}
    waiting = list(wanted)
    while waiting or engine.busy:
        for _ in range(rng.randrange(3) if waiting else 0):
            engine.add(waiting.pop()) if waiting else None
        if rng.random() < 0.2:
            engine.abort([str(rng.randrange(40))])
        for output in engine.step():
            assert not got.get(output.id) or got[output.id][-1].finish is None, "an output after the last"
            got.setdefault(output.id, []).append(output)
        engine.check()
    whole = 0
    for request in wanted:
        tokens = [t for o in got.get(request.id, []) for t in o.tokens]
        history = list(request.prompt)
        for token in tokens:
            assert token == next_token(history)
            history.append(token)
        whole += got.get(request.id, [Output(id="")])[-1].finish in ("stop", "length")
    assert whole > 10


def test_a_failing_forward_ends_its_own_requests_only(make_engine: Any, run: Run) -> None:
    class FailsOnce:
        def __init__(self, model: Any) -> None:
            self.model, self.failed, self.logits = model, False, model.logits

        def forward(self, step: Any) -> Any:
            if not self.failed and len(step.inputs.seq_lens) == 2:
                self.failed = True
                raise RuntimeError("boom")
            return self.model.forward(step)

    engine = make_engine(rows=2, overlap=True, model=FailsOnce(make_engine()._parts.runner._model))
    wanted = requests(1, 5)
    for request in wanted:
        engine.add(request)
    found = run(engine)
    failed = [id for id, outputs in found.items() if outputs[-1].finish == "error"]
    assert len(failed) == 2
    assert "boom" in str(found[failed[0]][-1].error)
    alone = make_engine()
    for request in wanted:
        alone.add(request)
    expected = texts(run(alone))
    assert {id: text for id, text in texts(found).items() if id not in failed} == {
        id: text for id, text in expected.items() if id not in failed
    }


def test_a_sampler_that_fails_ends_its_own_requests_only(make_engine: Any, run: Run) -> None:
    class Fails:
        calls = 0

        def prepare(self, rows: Any) -> None:
            self.calls += 1
            if self.calls == 2:
                raise ZeroDivisionError("a plugin's mistake")

        def apply(self, logits: Any, state: None) -> Any:
            raise AssertionError("it was not asked for")

    engine = make_engine(overlap=True, rows=1, stages=[Stage.of("fails", Fails(), keeps_argmax=False)])
    params = SamplingParams(max_tokens=3, ignore_eos=True, fields=GREEDY)
    for id in "ab":
        engine.add(Request(id=id, prompt=(1, 2, 3), params=params))
    found = run(engine)
    assert "a plugin's mistake" in str(found["a"][-1].error)
    assert len(texts({"b": found["b"]})["b"][0]) == 3


def test_observers_hear_only_of_tokens_that_somebody_gets(make_engine: Any, run: Run) -> None:
    heard: list[int] = []

    class Listens:
        def prepare(self, rows: Any) -> None:
            return None

        def observe(self, rows: Any, tokens: Any) -> None:
            assert len(rows) == len(tokens)
            heard.extend(tokens)

    engine = make_engine(overlap=True, stages=[Stage.of("listens", Listens(), keeps_argmax=False)])
    for request in requests(4, 12):
        engine.add(request)
    tokens = [t for outputs in run(engine).values() for o in outputs for t in o.tokens]
    assert sorted(heard) == sorted(tokens)


def test_rows_without_a_choice_do_not_disturb_the_step_after(make_engine: Any, run: Run) -> None:
    engine = make_engine(overlap=True)
    engine._parts.runner._model.nan_after = 150
    for request in requests(4, 12):
        engine.add(request)
    found = run(engine)
    assert {outputs[-1].finish for outputs in found.values()} > {"error"}
    assert not any("model step failed" in str(outputs[-1].error) for outputs in found.values())


def test_closing_ends_the_thread(make_engine: Any, run: Run) -> None:
    before = set(threading.enumerate())
    engine = make_engine(overlap=True)
    engine.add(Request(id="a", prompt=(1, 2), params=SamplingParams(max_tokens=30, ignore_eos=True, fields=GREEDY)))
    engine.step()
    own = [t for t in threading.enumerate() if t.name.startswith("maxserve-device") and t not in before]
    assert own
    engine.close()
    engine.close()
    assert not any(t.is_alive() for t in own)
