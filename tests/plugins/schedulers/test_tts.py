"""The scheduler `tts` conforms, and alternates as documented."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from maxserve.core.interfaces.scheduler import SchedulerContext
from maxserve.plugins.schedulers.tts import Config, TakingTurns
from maxserve.testing.scheduler import SchedulerChecks
from maxserve.testing.simulation import Arrival, SimulatedEngine

House = Callable[..., SimulatedEngine]


class TestTakingTurns(SchedulerChecks):
    scheduler = "tts"

    def saw(self, microseconds: float, looked_at: int) -> None:
        assert looked_at < 64, "a plan must not walk the whole queue"


class TestWithFewDecoding(SchedulerChecks):
    scheduler = "tts"
    sections: ClassVar[dict[type[Any], Any]] = {Config: Config(max_queue_size_tg=3, min_batch_size_tg=2)}


class TestWithMoreThanABatch(SchedulerChecks):
    scheduler = "tts"
    sections: ClassVar[dict[type[Any], Any]] = {
        Config: Config(max_queue_size_tg=20, enable_prioritize_first_decode=True)
    }


class TestWithDelay(SchedulerChecks):
    scheduler = "tts"
    sections: ClassVar[dict[type[Any], Any]] = {Config: Config(ce_delay_ms=50.0, min_batch_size_tg=4)}


def taking(engine: SimulatedEngine, **options: Any) -> TakingTurns:
    """A policy for the house, which does not chunk."""
    config = Config(**options)
    engine.limits = replace(engine.limits, chunked_prefill=False, max_started=config.max_queue_size_tg)
    return TakingTurns(SchedulerContext(limits=engine.limits, sections={Config: config}))


def steps(engine: SimulatedEngine, policy: TakingTurns, count: int) -> list[str]:
    """The ids of each of the next steps."""
    before = len(engine.log)
    for _ in range(count):
        engine.run_step(policy)
    return [" ".join(id for id, _ in planned) for planned in engine.log[before:]]


def test_prompts_until_the_queue_is_full_then_one_token_for_everyone(house: House) -> None:
    engine = house([], [10] * 12)
    assert steps(engine, taking(engine), 3) == [
        "p0 p1 p2 p3 p4 p5 p6",
        "p7",
        "p0 p1 p2 p3 p4 p5 p6 p7",
    ]


def test_no_more_are_begun_than_the_queue_holds(house: House) -> None:
    engine = house([10], [10] * 4)
    assert steps(engine, taking(engine, max_queue_size_tg=3), 2) == ["p0 p1", "d0 p0 p1"]


def test_the_queue_may_be_longer_than_a_batch_whose_places_the_oldest_have(house: House) -> None:
    engine = house([], [10] * 5, max_batch_size=2)
    policy = taking(engine, max_queue_size_tg=4)
    assert steps(engine, policy, 4) == ["p0 p1", "p2 p3", "p0 p1", "p0 p1"]
    assert len(engine.running) == 4
    engine.abort(["p0"])
    assert steps(engine, policy, 2) == ["p4", "p1 p2"]


def test_a_turn_of_prompts_ends_though_too_few_decode(house: House) -> None:
    engine = house([10], [64] * 6)
    assert steps(engine, taking(engine), 6) == ["p0", "p1", "p2", "p3", "d0 p0 p1 p2 p3", "p4"]


def test_prompts_are_preferred_until_enough_decode(house: House) -> None:
    engine = house([], [10, 10], max_batch_size=4)
    policy = taking(engine, min_batch_size_tg=2)
    assert steps(engine, policy, 1) == ["p0 p1"]
    engine.arrive(Arrival(id="late", prompt_length=10, end=200))
    assert steps(engine, policy, 3) == ["p0 p1"] * 3, "two decode, which is enough: prompts wait"
    engine.abort(["p0"])
    assert steps(engine, policy, 2) == ["late", "p1 late"]


def test_by_default_prompts_are_preferred_until_the_queue_is_full(house: House) -> None:
    engine = house([10, 10], [10], max_batch_size=4)
    policy = taking(engine, max_queue_size_tg=3)
    assert steps(engine, policy, 2) == ["p0", "d0 d1 p0"]
    engine.arrive(Arrival(id="late", prompt_length=10, end=200))
    assert steps(engine, policy, 2) == ["d0 d1 p0"] * 2


def test_first_decode_is_of_exactly_the_new_ones(house: House) -> None:
    engine = house([10, 10], [40, 40], max_batch_input_tokens=32)
    policy = taking(engine, enable_prioritize_first_decode=True)
    assert steps(engine, policy, 5) == ["p0", "p0", "p1", "p1", "d0 d1 p0 p1"]


def test_without_it_prompts_follow_each_other(house: House) -> None:
    engine = house([10, 10], [40, 40], max_batch_input_tokens=32)
    assert steps(engine, taking(engine), 3) == ["p0", "p1", "d0 d1 p0 p1"]


def test_first_decode_leaves_out_who_is_gone(house: House) -> None:
    engine = house([10], [10, 10])
    policy = taking(engine, enable_prioritize_first_decode=True)
    assert steps(engine, policy, 1) == ["p0 p1"]
    engine.abort(["p0"])
    assert steps(engine, policy, 2) == ["p1", "d0 p1"]


def test_first_decode_of_nobody_is_no_lost_step(house: House) -> None:
    engine = house([10], [10])
    policy = taking(engine, enable_prioritize_first_decode=True)
    assert steps(engine, policy, 1) == ["p0"]
    engine.abort(["p0"])
    assert steps(engine, policy, 1) == ["d0"]


def test_prompts_are_never_cut(house: House) -> None:
    engine = house([], [40, 100, 5])
    engine.run_step(taking(engine))
    assert engine.log == [[("p0", 40), ("p1", 100)]]  # the last of a batch may exceed its tokens


def test_there_is_no_watermark(house: House) -> None:
    engine = house([76], [4], pages=20, watermark=0.5)
    assert steps(engine, taking(engine), 1) == ["p0"]


def test_total_tokens_bound_batches_with_prompts(house: House) -> None:
    engine = house([], [20, 20, 20], max_batch_total_tokens=45)
    assert steps(engine, taking(engine), 3) == ["p0 p1", "p2", "p0 p1 p2"]


# --- the delay ------------------------------------------------------------------------------------------------


def test_an_idle_house_rests_until_prompts_have_waited(house: House) -> None:
    engine = house([], [10])
    policy = taking(engine, ce_delay_ms=5000.0)
    engine.run_step(policy)
    assert (engine.log, engine.rested, engine.now) == ([[]], True, 5.0)
    assert policy.idle_until() == 5.0
    engine.arrive(Arrival(id="late", prompt_length=10, end=200))
    assert steps(engine, policy, 1) == ["p0 late"]
    assert policy.idle_until() is None


def test_those_who_decode_go_on_while_prompts_wait(house: House) -> None:
    engine = house([10], [10])
    assert steps(engine, taking(engine, ce_delay_ms=35.0), 6) == ["d0", "d0", "d0", "d0", "p0", "d0 p0"]


def test_within_a_cycle_prompts_wait_only_once(house: House) -> None:
    engine = house([], [40, 40, 40], max_batch_input_tokens=32)
    policy = taking(engine, ce_delay_ms=1000.0)
    assert steps(engine, policy, 5) == ["", "p0", "p1", "p2", "p0 p1 p2"]
    engine.arrive(Arrival(id="late", prompt_length=10, end=200))
    since = engine.now
    while "late" not in steps(engine, policy, 1)[0]:
        assert engine.now < since + 1.1
    assert engine.now > since + 1.0


def test_a_prompt_that_went_away_leaves_no_head_start(house: House) -> None:
    engine = house([], [10])
    policy = taking(engine, ce_delay_ms=1000.0)
    engine.run_step(policy)
    engine.abort(["p0"])
    engine.now = 50.0
    engine.arrive(Arrival(id="next", prompt_length=10, end=200))
    assert steps(engine, policy, 2) == ["", "next"]
    assert engine.now == pytest.approx(51.01)
