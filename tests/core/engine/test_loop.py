"""The step loop, on a model whose next token depends on everything its sequence put into the cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import Output, Request, SamplingParams

VOCAB, EOS = 211, 7
GREEDY = {"temperature": {"temperature": 0.0}}

Run = Callable[..., dict[str, list[Output]]]


def reference(prompt: tuple[int, ...], params: SamplingParams, max_length: int) -> tuple[list[int], str]:
    """What the hashing model says, worked out without any engine."""
    tokens = list(prompt)
    ends = {*params.stop_token_ids, *(() if params.ignore_eos else (EOS,))}
    while True:
        total = sum((i + 1) * (t + 3) for i, t in enumerate(tokens))
        tokens.append((total * 31 + 17) % VOCAB)
        if tokens[-1] in ends:
            return tokens[len(prompt) :], "stop"
        if len(tokens) - len(prompt) == params.max_tokens or len(tokens) >= max_length:
            return tokens[len(prompt) :], "length"


def text(outputs: list[Output]) -> tuple[list[int], str]:
    assert all(o.finish is None for o in outputs[:-1])
    return [t for o in outputs for t in o.tokens], str(outputs[-1].finish)


def requests(seed: int, count: int, *, longest: int = 90) -> list[Request]:
    rng = random.Random(seed)
    shared = [rng.randrange(VOCAB) for _ in range(48)]
    found = []
    for i in range(count):
        own = [rng.randrange(VOCAB) for _ in range(rng.randrange(1, longest))]
        prompt = tuple((shared if rng.random() < 0.5 else []) + own)
        params = SamplingParams(max_tokens=rng.randrange(1, 40), ignore_eos=rng.random() < 0.5, fields=GREEDY)
        found.append(Request(id=str(i), prompt=prompt, params=params, salt="x" if rng.random() < 0.2 else ""))
    return found


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks": {"tokens": 24},
    "whole prompts": {"chunked": False, "tokens": 24},
    "in flight": {"in_flight": True, "tokens": 24},
    "in flight, whole prompts": {"in_flight": True, "tokens": 24, "chunked": False},
    "in flight, short steps": {"in_flight": True, "mixed_step": 0.03},
    "in flight, short steps, whole prompts": {"in_flight": True, "mixed_step": 0.03, "chunked": False},
    "small cache": {"pages": 13, "tokens": 48},
    "small cache, short steps in flight": {"pages": 13, "in_flight": True, "mixed_step": 0.03},
    "small cache, chunks in flight": {"pages": 13, "tokens": 20, "in_flight": True},
    "one row": {"rows": 1},
    "total budget": {"total": 210, "tokens": 48},
    "three steps": {"steps": 3},
    "ten steps, small cache": {"steps": 10, "pages": 13, "tokens": 48},
    "ten steps in flight": {"steps": 10, "in_flight": True, "tokens": 24},
    "overlap": {"overlap": True},
    "overlap, chunks": {"overlap": True, "tokens": 24},
    "overlap, whole prompts": {"overlap": True, "tokens": 24, "chunked": False},
    "overlap, small cache": {"overlap": True, "pages": 13, "tokens": 48},
    "overlap, small cache, chunks in flight": {"overlap": True, "pages": 13, "tokens": 20, "in_flight": True},
    "overlap, short steps in flight": {"overlap": True, "in_flight": True, "mixed_step": 0.03},
    "overlap, one row": {"overlap": True, "rows": 1},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_texts_do_not_depend_on_what_else_runs(make_engine: Any, run: Run, options: Any, seed: int) -> None:
    engine = make_engine(**options)
    wanted = requests(seed, 24)
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    for request in wanted:
        assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)


def test_a_small_cache_preempts_and_loses_nothing(make_engine: Any, run: Run) -> None:
    told: list[tuple[int, int]] = []
    engine = make_engine(pages=13, tokens=48, on_lost_pages=lambda count, total: told.append((count, total)))
    for request in requests(5, 24):
        engine.add(request)
    run(engine)
    assert engine.stats().preemptions == told[-1][1] == sum(count for count, _ in told) > 0


def test_a_shared_prefix_is_computed_once(make_engine: Any, run: Run) -> None:
    engine = make_engine()
    prompt = tuple(range(3, 67))
    params = SamplingParams(max_tokens=3, ignore_eos=True, fields=GREEDY)
    engine.add(Request(id="first", prompt=prompt, params=params))
    run(engine)
    engine.add(Request(id="second", prompt=(*prompt, 9), params=params))
    assert run(engine)["second"][0].cached == 64
    engine.add(Request(id="other salt", prompt=(*prompt, 9), params=params, salt="other"))
    assert run(engine)["other salt"][0].cached == 0


def test_a_request_aborted_at_any_step_frees_what_it_held(make_engine: Any, run: Run) -> None:
    for steps in range(12):
        engine = make_engine(tokens=24)
        wanted = requests(2, 6)
        for request in wanted:
            engine.add(request)
        outputs: dict[str, list[Output]] = {}
        for _ in range(steps):
            for output in engine.step():
                outputs.setdefault(output.id, []).append(output)
        engine.abort(["0", "1", "2", "unknown"])
        engine.check()
        for id, more in run(engine).items():
            outputs.setdefault(id, []).extend(more)
        for request in wanted[3:]:
            assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)


def test_a_seed_gives_the_same_text_alone_and_in_company(make_engine: Any, run: Run) -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True, seed=0, fields={"temperature": {"temperature": 2.0}})
    seeded = Request(id="seeded", prompt=(1, 2, 3), params=params)
    alone = make_engine()
    alone.add(seeded)
    batch = make_engine(tokens=24, in_flight=True)
    for request in (*requests(3, 10), seeded):
        batch.add(request)
    expected = text(run(alone)["seeded"])
    assert text(run(batch)["seeded"]) == expected
    assert expected != reference(seeded.prompt, params, alone.info.max_length), "it was meant to be drawn"


def test_a_failing_batch_ends_its_own_requests_only(make_engine: Any, run: Run) -> None:
    class FailsOnce:
        def __init__(self, model: Any) -> None:
            self.model, self.failed = model, False

        def forward(self, step: Any) -> Any:
            if not self.failed and len(step.inputs.seq_lens) == 2:
                self.failed = True
                raise RuntimeError("boom")
            return self.model.forward(step)

        def logits(self, hidden: Any) -> Any:
            return self.model.logits(hidden)

    model = make_engine()._parts.runner._model
    engine = make_engine(rows=2, model=FailsOnce(model))
    wanted = requests(1, 5)
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    failed = [id for id, found in outputs.items() if found[-1].finish == "error"]
    assert len(failed) == 2
    assert "boom" in str(outputs[failed[0]][-1].error)
    for request in wanted:
        if request.id not in failed:
            assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)


def test_logits_that_are_not_numbers_fail_their_own_row(make_engine: Any, run: Run) -> None:
    engine = make_engine()
    engine._parts.runner._model.nan_after = 150
    for request in requests(4, 12):
        engine.add(request)
    finishes = {found[-1].finish for found in run(engine).values()}
    assert "error" in finishes
    assert finishes - {"error"}, "some texts never meet a token above 150"


def test_simulated_failures_hit_a_share_of_the_batches(make_engine: Any, run: Run) -> None:
    engine = make_engine(failure_percent=100)
    engine.add(requests(0, 1)[0])
    assert "simulated failure" in str(run(engine)["0"][-1].error)


class PlansNothing:
    def plan(self, view: Any, plan: Any) -> None:
        pass


def test_a_policy_that_plans_nothing_cannot_stop_the_server(
    make_engine: Any, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(policy=PlansNothing())
    wanted = requests(6, 3)
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    for request in wanted:
        assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)
    assert "scheduler 'test' planned nothing" in caplog.text


class Fails:
    """Plans one sequence, then breaks."""

    def plan(self, view: Any, plan: Any) -> None:
        for sequence in (*view.running, *view.waiting):
            plan.add(sequence, sequence.todo)
            raise ZeroDivisionError("a plugin's mistake")


def test_a_policy_that_fails_is_only_unfair(make_engine: Any, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    engine = make_engine(policy=Fails())
    wanted = requests(9, 4)
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    for request in wanted:
        assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)
    assert caplog.text.count("ZeroDivisionError: a plugin's mistake") == 1


class GreedyPolicy:
    """Asks for everything, several times, in the wrong order."""

    def plan(self, view: Any, plan: Any) -> None:
        for _ in range(2):
            for sequence in reversed(list(view.waiting)):
                plan.add(sequence, 10**9)
            for sequence in view.running:
                plan.add(sequence, 5)
                plan.preempt(sequence)


def test_a_greedy_policy_is_only_unfair(make_engine: Any, run: Run) -> None:
    engine = make_engine(policy=GreedyPolicy(), pages=16, tokens=32)
    wanted = requests(7, 12)
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    for request in wanted:
        assert text(outputs[request.id]) == reference(request.prompt, request.params, engine.info.max_length)


def test_prompts_that_block_each_other_are_relieved(make_engine: Any, run: Run) -> None:
    class RoundRobinChunks:
        """Starts every prompt at once, so that together they hold all pages and none can go on."""

        def plan(self, view: Any, plan: Any) -> None:
            for sequence in view.running:
                plan.add(sequence, 1)
            for sequence in view.waiting:
                plan.add(sequence, 16)

    engine = make_engine(policy=RoundRobinChunks(), pages=8, tokens=64, max_length=128)
    params = SamplingParams(max_tokens=4, ignore_eos=True, fields=GREEDY)
    wanted = [Request(id=str(i), prompt=tuple([i + 20] * 100), params=params) for i in range(4)]
    for request in wanted:
        engine.add(request)
    outputs = run(engine)
    for request in wanted:
        assert text(outputs[request.id]) == reference(request.prompt, params, engine.info.max_length)


@pytest.mark.parametrize(
    ("prompt", "params", "words"),
    [
        ((), SamplingParams(), "has no tokens"),
        ((1,) * 200, SamplingParams(), "leaves no room"),
        ((1, VOCAB), SamplingParams(), "outside the vocabulary"),
        ((-1,), SamplingParams(), "outside the vocabulary"),
        ((1,), SamplingParams(max_tokens=0), "max_tokens"),
        ((1,), SamplingParams(seed="7"), "seed must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_served_is_refused(make_engine: Any, prompt: Any, params: Any, words: str) -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match=words):
        engine.add(Request(id="bad", prompt=prompt, params=params))
    assert not engine.busy


def test_an_id_can_be_used_once_at_a_time(make_engine: Any) -> None:
    engine = make_engine()
    engine.add(Request(id="a", prompt=(1,)))
    with pytest.raises(RequestError, match="in use"):
        engine.add(Request(id="a", prompt=(1,)))


def test_the_longest_prompt_gives_one_token(make_engine: Any, run: Run) -> None:
    engine = make_engine(max_length=50)
    engine.add(Request(id="long", prompt=(1,) * 49, params=SamplingParams(ignore_eos=True, fields=GREEDY)))
    outputs = run(engine)["long"]
    assert [o.finish for o in outputs] == ["length"]
    assert len(outputs[0].tokens) == 1


def test_stats_count_what_happened(make_engine: Any, run: Run) -> None:
    engine = make_engine()
    wanted = requests(8, 5)
    for request in wanted:
        engine.add(request)
    assert engine.stats().waiting == 5
    outputs = run(engine)
    stats = engine.stats()
    assert stats.prompt_tokens == sum(len(r.prompt) for r in wanted)
    assert stats.generated_tokens == sum(len(o.tokens) for found in outputs.values() for o in found)
    assert (stats.running, stats.waiting) == (0, 0)
