"""The schedulers and the cache in the real step loop, around a model that is not there: what ran in which step.

Every option of scheduling is tried here as an engine that honours it behaves.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch

from maxserve.core.assembly.cache_pressure import CachePressureLog
from maxserve.core.assembly.no_adapters import no_adapters
from maxserve.core.engine.draw import Pipeline, Stage
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.parts import Parts
from maxserve.core.interfaces.cache import CacheContext
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.request import Output, Request, SamplingParams
from maxserve.core.interfaces.runner import ModelOutput
from maxserve.core.interfaces.sampler import Rows
from maxserve.core.interfaces.scheduler import Limits, SchedulerContext
from maxserve.core.registry.entries import load_ref
from maxserve.plugins.cache.paged import PagedCache
from maxserve.plugins.schedulers import maxserve_schedulers
from maxserve.plugins.schedulers.tts import Config
from maxserve.scheduling import WorkCost

VOCAB = 10
INFO = ModelInfo(
    name="none",
    path="",
    architecture="none",
    max_length=120,
    vocab_size=VOCAB,
    eos_token_ids=(),
    dtype="float32",
    device="cpu",
    parameters=0,
    max_batch_size=8,
    created=0,
)
SCHEDULERS = {scheduler.name: scheduler for scheduler in maxserve_schedulers()}
MIXING = ("continuous", "fair")  # those that cut prompts, mix them with answers and keep pages back


class Nothing:
    """Stands for batch builder, runner and draw: every sequence gets token 1. Notes the tokens of each step by id."""

    def __init__(self) -> None:
        self.steps: list[dict[str, int]] = []

    def build(self, step: Any) -> Any:
        counts = (step.stops - step.starts).tolist()
        self.steps.append({sequence.id: count for sequence, count in zip(step.sequences, counts, strict=True)})
        return step.drawing

    def run(self, inputs: Any) -> ModelOutput:
        return ModelOutput(logits=torch.zeros(len(inputs), VOCAB), hidden=torch.zeros(len(inputs), 1))

    def decide(self, logits: torch.Tensor, in_flight: Any) -> None:
        in_flight.tokens = np.ones(len(in_flight.drawing), dtype=np.int64)


@dataclass
class House:
    """An engine and what came of its requests."""

    engine: Engine
    nothing: Nothing
    got: dict[str, int] = field(default_factory=dict)

    def ask(self, id: str, prompt: int | tuple[int, ...], max_tokens: int = 40, user: str = "") -> None:
        """A request with a prompt of so many tokens, unlike any other's."""
        if isinstance(prompt, int):
            own = random.Random(id)
            prompt = tuple(own.randrange(VOCAB) for _ in range(prompt))
        params = SamplingParams(max_tokens=max_tokens)
        self.engine.add(Request(id=id, prompt=prompt, params=params, user=user))

    def step(self, count: int = 1) -> list[Output]:
        outputs: list[Output] = []
        for _ in range(count):
            outputs += self.engine.next_outputs()
            self.engine.check()
        for output in outputs:
            assert output.finish != "error", output.error
            self.got[output.id] = self.got.get(output.id, 0) + len(output.tokens)
        return outputs

    def ran(self, count: int) -> list[str]:
        """Who runs in the next steps, and with how many tokens where it is not one."""
        before = len(self.nothing.steps)
        self.step(count)
        return [
            " ".join(id if n == 1 else f"{id}:{n}" for id, n in step.items()) for step in self.nothing.steps[before:]
        ]


def house(
    scheduler: str = "continuous", *, share: bool = True, tts: Config | None = None, steps: int = 1, **changes: Any
) -> House:
    given: dict[str, Any] = {"max_batch_size": 8, "max_batch_input_tokens": 64, "max_batch_total_tokens": None}
    given |= {"max_length": 120, "page_size": 4, "pages": 100} | changes
    tts = tts or Config()
    chunked = given.pop("chunked_prefill", True) and SCHEDULERS[scheduler].chunks_prompts
    limits = Limits(**given, chunked_prefill=chunked, max_started=tts.max_queue_size_tg)
    cache = PagedCache(
        CacheContext(
            layers=(),
            pages=limits.pages,
            page_size=limits.page_size,
            rows=limits.rows,
            max_length=limits.max_length,
            dtype=torch.float32,
            device=torch.device("cpu"),
            share_prefixes=share,
        )
    )
    nothing = Nothing()
    stand_in: Any = nothing
    return House(
        Engine(
            Parts(
                info=INFO,
                limits=limits,
                cache=cache,
                policy=load_ref(SCHEDULERS[scheduler].build)(SchedulerContext(limits=limits, sections={Config: tts})),
                policy_name=scheduler,
                cost=WorkCost(),
                builder=stand_in,
                runner=stand_in,
                pipeline=stand_in,
                read_params=lambda fields: {},
                adapters=no_adapters(),
                on_lost_pages=CachePressureLog().preempted,
                max_steps=steps,
            )
        ),
        nothing,
    )


# --- every request gets everything --------------------------------------------------------------------------------

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "in flight": {"in_flight_batching": True},
    "whole prompts": {"chunked_prefill": False},
    "whole prompts in flight": {"chunked_prefill": False, "in_flight_batching": True},
    "first decode": {"tts": Config(enable_prioritize_first_decode=True, min_batch_size_tg=3)},
    "long queue": {"tts": Config(max_queue_size_tg=20)},
}


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(("pages", "watermark"), [(40, 0.9), (30, 1.0)])
def test_everyone_gets_all_tokens_from_few_pages(
    scheduler: str, share: bool, case: dict[str, Any], pages: int, watermark: float
) -> None:
    for seed in range(2):
        rng = random.Random(seed)
        subject = house(scheduler, share=share, pages=pages, watermark=watermark, **case)
        wanted: dict[str, int] = {}
        for number in range(30):
            length, tokens = rng.choice([rng.randint(1, 20), rng.randint(60, 100)]), rng.randint(1, 30)
            prompt = tuple(int(rng.random() < 0.1) for _ in range(length))
            subject.ask(f"r{number}", prompt, tokens, user=rng.choice("abc"))
            wanted[f"r{number}"] = min(tokens, 120 - length)
            subject.step(rng.choice([0, 0, 1, 5]))
        for _ in range(2000):
            if not subject.engine.busy:
                break
            subject.step()
        assert subject.got == wanted


@pytest.mark.parametrize("scheduler", MIXING)
@pytest.mark.parametrize("in_flight", [True, False])
def test_only_the_last_of_a_batch_is_cut_and_nothing_is_said_for_it(scheduler: str, in_flight: bool) -> None:
    rng, subject, cuts = random.Random(1), house(scheduler, in_flight_batching=in_flight), 0
    left: dict[str, int] = {}
    for number in range(40):
        left[f"r{number}"] = rng.randint(1, 90)
        subject.ask(f"r{number}", left[f"r{number}"], 10, user=rng.choice("ab"))
    while subject.engine.busy:
        spoken = {output.id for output in subject.step()}
        for id, count in subject.nothing.steps[-1].items():
            left[id] -= count
            if left[id] > 0:
                cuts += 1
                assert id == next(reversed(subject.nothing.steps[-1]))
                assert id not in spoken
    assert cuts > 5


# --- option by option -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_max_batch_size(scheduler: str) -> None:
    """It bounds a batch of prompts, one of answers, and prompts beside those who answer."""
    subject = house(scheduler, max_batch_size=3)
    for id in "abcde":
        subject.ask(id, 5, max_tokens=3)
    assert subject.ran(3) == ["a:5 b:5 c:5", "a b c", "a b c"]
    assert subject.ran(2) == ["d:5 e:5", "d e"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_max_batch_size_counts_those_who_answer_beside_prompts(scheduler: str) -> None:
    subject = house(scheduler, max_batch_size=3, in_flight_batching=True)
    subject.ask("a", 5)
    subject.ask("b", 5)
    assert subject.ran(1) == ["a:5 b:5"]
    for id in "cd":
        subject.ask(id, 5)
    assert subject.ran(2) == ["a b c:5", "a b c"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_max_batch_input_tokens_is_met_exactly_by_chunks(scheduler: str) -> None:
    subject = house(scheduler, max_batch_input_tokens=32)
    subject.ask("a", 20)
    subject.ask("b", 50)
    subject.ask("c", 5)
    assert subject.ran(3) == ["a:20 b:12", "b:32", "b:6 c:5"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_max_batch_input_tokens_is_soft_without_chunks(scheduler: str) -> None:
    subject = house(scheduler, max_batch_input_tokens=32, chunked_prefill=False)
    subject.ask("a", 20)
    subject.ask("b", 50)
    subject.ask("c", 5)
    assert subject.ran(2) == ["a:20 b:50", "c:5"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_a_row_that_answers_costs_one_input_token(scheduler: str) -> None:
    subject = house(scheduler, max_batch_input_tokens=8, in_flight_batching=True)
    for id in "abc":
        subject.ask(id, 2)
    assert subject.ran(1) == ["a:2 b:2 c:2"]
    subject.ask("long", 11)
    assert subject.ran(3) == ["a b c long:5", "a b c long:5", "a b c long"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_in_flight_answers_go_first_in_a_batch_and_otherwise_in_turns(scheduler: str) -> None:
    for in_flight, steps in ((True, ["a b:30"]), (False, ["b:30", "a b"])):
        subject = house(scheduler, in_flight_batching=in_flight)
        subject.ask("a", 30)
        subject.step()
        subject.ask("b", 30)
        assert subject.ran(len(steps)) == steps


@pytest.mark.parametrize("scheduler", MIXING)
def test_in_flight_no_prompt_takes_what_an_answer_just_lost(scheduler: str) -> None:
    """Pages run out, the newest gives its own up: a prompt that came later must not overtake it in the same step."""
    subject = house(scheduler, pages=8, in_flight_batching=True, watermark=1.0, share=False)
    subject.ask("a", 15)
    subject.ask("b", 16)
    assert subject.ran(2) == ["a:15 b:16", "a"]
    assert subject.engine.stats().preemptions == 1
    subject.ask("late", 4, max_tokens=1)
    assert subject.ran(1) == ["a"], "b is first in line, needs five pages, and three are free"


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_max_batch_total_tokens_bounds_batches_with_prompts_only(scheduler: str) -> None:
    subject = house(scheduler, max_batch_total_tokens=120)
    for id in "abcd":
        subject.ask(id, 50)
    assert subject.ran(2) == ["a:50 b:14", "b:36 c:28"] if scheduler in MIXING else ["a:50 b:50", "c:50 d:50"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_max_batch_total_tokens_counts_cached_ones(scheduler: str) -> None:
    subject = house(scheduler, max_batch_total_tokens=120, max_batch_input_tokens=200)
    prompt = tuple(random.Random(0).randrange(VOCAB) for _ in range(48))
    subject.ask("first", prompt, max_tokens=1)
    subject.step()
    for id in "abc":
        subject.ask(id, (*prompt, 1, 2))
    assert subject.ran(2) == ["a:2 b:2", "c:2"]
    assert subject.ran(1) == ["a b c"], "answers alone are exempt"


@pytest.mark.parametrize("scheduler", MIXING)
def test_max_batch_total_tokens_counts_those_who_answer_in_the_same_batch(scheduler: str) -> None:
    subject = house(scheduler, max_batch_total_tokens=120, in_flight_batching=True)
    subject.ask("a", 50)
    subject.step()
    subject.ask("b", 50)
    subject.ask("c", 50)
    assert subject.ran(2) == ["a b:50", "a b"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_max_length_ends_a_request(scheduler: str) -> None:
    subject = house(scheduler)
    subject.ask("a", 115, max_tokens=40)
    while subject.engine.busy:
        (last,) = subject.step(2)[-1:]
    assert (last.finish, subject.got) == ("length", {"a": 5})


@pytest.mark.parametrize("scheduler", MIXING)
def test_the_watermark_keeps_pages_for_those_who_answer(scheduler: str) -> None:
    subject = house(scheduler, pages=20, watermark=0.8)
    subject.ask("a", 40)
    subject.step()
    subject.ask("b", 24)  # 10 or 11 and 6 of 20 pages
    assert subject.ran(1) == ["b:24"]
    subject.ask("c", 4)
    assert subject.ran(1) == ["a b"]


@pytest.mark.parametrize("scheduler", MIXING)
def test_the_watermark_does_not_count_what_is_cached(scheduler: str) -> None:
    for share, steps in ((True, ["b"]), (False, ["a"])):
        subject = house(scheduler, pages=20, watermark=0.8, share=share)
        subject.ask("a", tuple([3] * 40))
        subject.step()
        subject.ask("b", tuple([3] * 40 + [4]))
        assert subject.ran(1) == steps


@pytest.mark.parametrize("scheduler", MIXING)
def test_the_watermark_holds_nobody_back_from_an_empty_house(scheduler: str) -> None:
    subject = house(scheduler, pages=20, watermark=0.1)
    subject.ask("a", 40)
    subject.ask("b", 4)
    assert subject.ran(2) == ["a:40", "a"]


def test_tts_keeps_no_page_back() -> None:
    subject = house("tts", pages=20, watermark=0.1)
    subject.ask("a", 40)
    subject.ask("b", 24)
    assert subject.ran(1) == ["a:40 b:24"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_prompt_that_finds_no_pages_keeps_its_place(scheduler: str) -> None:
    subject = house(scheduler, pages=20, watermark=1.0)
    subject.ask("a", 40, max_tokens=3)
    subject.step()
    subject.ask("large", 60)
    subject.ask("small", 4)
    assert subject.ran(3) == ["a", "a", "large:60 small:4"]


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_who_lost_its_pages_is_next(scheduler: str) -> None:
    subject = house(scheduler, pages=8, share=False, watermark=1.0)
    subject.ask("a", 14, max_tokens=3)
    subject.ask("b", 16)
    subject.ask("c", 4)
    assert subject.ran(1) == ["a:14 b:16"]
    assert subject.ran(2) == ["a", "a"], "b needs a fifth page and c has waited longer, but b was there before"
    assert subject.ran(1) == ["b:17 c:4"]


# --- tts ------------------------------------------------------------------------------------------------------


def test_the_queue_of_those_who_answer_may_be_longer_than_a_batch() -> None:
    subject = house("tts", max_batch_size=2, tts=Config(max_queue_size_tg=4))
    for id in "abcde":
        subject.ask(id, 5, max_tokens=3)
    assert subject.ran(6) == ["a:5 b:5", "c:5 d:5", "a b", "a b", "e:5", "c d"]


def test_first_decode_comes_right_after_the_prompts() -> None:
    subject = house("tts", tts=Config(enable_prioritize_first_decode=True))
    subject.ask("a", 5)
    assert subject.ran(2) == ["a:5", "a"]
    subject.ask("b", 5)
    subject.ask("once", 5, max_tokens=1)
    assert subject.ran(3) == ["b:5 once:5", "b", "a b"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which goes on while a thread sleeps and at no other moment."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def test_prompts_wait_for_more_while_nobody_spins(clock: list[float]) -> None:
    subject = house("tts", tts=Config(ce_delay_ms=30000.0))
    assert subject.engine.pause is None
    subject.ask("a", 5)
    assert subject.engine.pause == 0.0
    assert subject.engine.step() == []
    assert subject.engine.pause == 30.0
    clock[0] += 10.0
    subject.ask("b", 5)
    assert subject.engine.step() == []
    assert subject.engine.pause == 20.0
    assert subject.ran(1) == ["a:5 b:5"]
    assert (clock[0], subject.engine.pause) == (1030.0, 0.0)


def test_an_answer_goes_on_while_a_prompt_waits(clock: list[float]) -> None:
    subject = house("tts", tts=Config(ce_delay_ms=30000.0))
    subject.ask("a", 5)
    subject.step()
    assert subject.ran(2) == ["a:5", "a"]
    subject.ask("b", 5)
    for _ in range(3):
        assert subject.ran(1) == ["a"]
        assert subject.engine.pause == 0.0
        clock[0] += 10.0
    assert subject.ran(2) == ["b:5", "a b"]


def test_a_long_rest_is_looked_after_now_and_then(clock: list[float]) -> None:
    subject = house("tts", tts=Config(ce_delay_ms=1e6))
    subject.ask("a", 5)
    subject.step()
    assert subject.engine.pause == 60.0


def test_a_request_that_waits_for_others_can_be_aborted() -> None:
    subject = house("tts", tts=Config(ce_delay_ms=30000.0))
    subject.ask("a", 5)
    subject.engine.step()
    subject.engine.abort(["a"])
    assert subject.engine.pause is None
    subject.engine.check()


def test_resting_on_purpose_is_no_failure_of_the_policy(caplog: pytest.LogCaptureFixture) -> None:
    subject = house("tts", tts=Config(ce_delay_ms=30000.0))
    subject.ask("a", 5)
    for _ in range(10):
        assert subject.engine.step() == []
    assert caplog.text == ""


# --- fairness -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
def test_an_answer_is_charged_whole_though_its_request_is_over(steps: int) -> None:
    """a was served ten tokens of prompt and an answer, b twenty-five of prompt: the next is b's."""
    subject = house("fair", max_batch_size=1, steps=steps, share=False)
    subject.ask("a0", 10, max_tokens=30, user="a")
    subject.ask("b0", 25, max_tokens=1, user="b")
    while not any(output.finish for output in subject.step()):
        pass
    subject.ask("late", 1, max_tokens=1, user="c")  # whatever a0 had for its numbers may be late's now
    subject.ask("a1", 10, max_tokens=1, user="a")
    subject.ask("b1", 10, max_tokens=1, user="b")
    assert subject.ran(4) == ["b0:25", "late", "b1:10", "a1:10"]


# --- preemption -----------------------------------------------------------------------------------------------


class Diary:
    """A transform of logits that notes what it is shown, by the first token of each row's prompt."""

    def __init__(self) -> None:
        self.seen: dict[int, list[tuple[int, int]]] = {}

    def prepare(self, rows: Rows) -> None:
        for tokens, prompt_length in zip(rows.tokens, rows.prompt_lengths, strict=True):
            self.seen.setdefault(int(tokens[0]), []).append((len(tokens), prompt_length))

    def apply(self, logits: torch.Tensor, state: None) -> torch.Tensor:
        return logits


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_samplers_see_the_original_prompt_after_a_preemption(scheduler: str) -> None:
    """What penalties and min_tokens count from: the prompt the client sent, not the one that is computed anew."""
    subject, diary = house(scheduler, pages=14, share=False, watermark=1.0), Diary()
    pipeline = Pipeline([Stage.of("diary", diary, keeps_argmax=False)], torch.device("cpu"))
    subject.engine._parts = replace(subject.engine._parts, pipeline=pipeline)
    for first in (2, 3):
        subject.ask(str(first), (first, *[5] * 19), max_tokens=20)
    while subject.engine.busy:
        subject.step()
    assert subject.engine.stats().preemptions > 0
    assert any(n > 1 for step in subject.nothing.steps[1:] for n in step.values()), "a sequence was computed anew"
    for first in (2, 3):
        assert diary.seen[first] == [(20 + drawn, 20) for drawn in range(20)]


def test_too_little_memory_is_said_once_a_second(caplog: pytest.LogCaptureFixture, clock: list[float]) -> None:
    subject = house(pages=14, share=False, watermark=1.0)
    with caplog.at_level(logging.WARNING):
        for number in range(6):
            subject.ask(f"r{number}", 20, max_tokens=20)
        while subject.engine.busy:
            subject.step()
        assert subject.engine.stats().preemptions > 1
        assert caplog.text.count("--device-memory-utilization") == 1
        clock[0] += 1.0
        for number in range(6):
            subject.ask(f"s{number}", 20, max_tokens=20)
        while subject.engine.busy:
            subject.step()
    assert caplog.text.count("--device-memory-utilization") == 2


def test_a_preemption_that_the_policy_wanted_is_no_lack_of_memory(caplog: pytest.LogCaptureFixture) -> None:
    class Preempts:
        def plan(self, view: Any, plan: Any) -> None:
            for sequence in view.running:
                plan.preempt(sequence)
            for sequence in view.waiting:
                plan.add(sequence, sequence.todo)

    subject = house()
    subject.engine._parts = replace(subject.engine._parts, policy=Preempts())
    subject.ask("a", 5)
    subject.step(3)
    assert subject.engine.stats().preemptions > 0
    assert "--device-memory-utilization" not in caplog.text
