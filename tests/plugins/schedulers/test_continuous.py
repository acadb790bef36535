"""The continuous scheduler conforms and follows the documented order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from maxserve.core.interfaces.scheduler import SchedulerContext
from maxserve.plugins.schedulers.continuous import Continuous
from maxserve.testing.scheduler import SchedulerChecks
from maxserve.testing.simulation import SimulatedEngine

House = Callable[..., SimulatedEngine]


class TestContinuous(SchedulerChecks):
    scheduler = "continuous"

    def saw(self, microseconds: float, looked_at: int) -> None:
        assert looked_at < 64, "a plan must not walk the whole queue"


def plan(engine: SimulatedEngine) -> dict[str, int]:
    """What the policy plans now, by id."""
    engine.run_step(Continuous(SchedulerContext(limits=engine.limits)))
    return dict(engine.log[-1])


def test_prompts_go_before_those_who_decode(house: House) -> None:
    assert plan(house([10, 10], [20, 30])) == {"p0": 20, "p1": 30}


def test_after_a_few_batches_of_prompts_those_who_decode_have_a_turn(house: House) -> None:
    engine = house([10], [64] * 6)
    policy = Continuous(SchedulerContext(limits=engine.limits))
    for _ in range(6):
        engine.run_step(policy)
    ran = [[id for id, _ in planned] for planned in engine.log]
    assert ran == [["p0"], ["p1"], ["p2"], ["p3"], ["d0", "p0", "p1", "p2", "p3"], ["p4"]]


def test_everyone_decodes_when_no_prompt_waits(house: House) -> None:
    assert plan(house([10, 11, 12], [])) == {"d0": 1, "d1": 1, "d2": 1}


def test_everyone_decodes_when_no_prompt_can_be_admitted(house: House) -> None:
    assert plan(house([10] * 8, [20])) == {f"d{i}": 1 for i in range(8)}


def test_the_last_prompt_is_cut_to_the_budget(house: House) -> None:
    assert plan(house([], [50, 50, 50])) == {"p0": 50, "p1": 14}


def test_a_budget_that_is_met_exactly_admits_no_more(house: House) -> None:
    assert plan(house([], [50, 14, 1])) == {"p0": 50, "p1": 14}


def test_whole_prompts_may_exceed_the_budget_once(house: House) -> None:
    assert plan(house([], [50, 50, 5], chunked_prefill=False)) == {"p0": 50, "p1": 50}
    assert plan(house([], [150, 5], chunked_prefill=False)) == {"p0": 150}


def test_in_flight_those_who_decode_go_first_and_prompts_fill_the_rest(house: House) -> None:
    mixed = plan(house([10, 10], [40, 40], in_flight_batching=True))
    assert mixed == {"d0": 1, "d1": 1, "p0": 40, "p1": 22}
    assert list(mixed) == ["d0", "d1", "p0", "p1"]


@pytest.mark.parametrize("in_flight", [True, False])
def test_batch_and_running_ones_stay_within_the_batch_size(house: House, in_flight: bool) -> None:
    made = plan(house([10] * 6, [5, 5, 5], in_flight_batching=in_flight))
    assert [id for id in made if id.startswith("p")] == ["p0", "p1"]


def test_the_watermark_keeps_pages_for_those_who_decode(house: House) -> None:
    assert plan(house([76], [4], pages=20, watermark=0.95)) == {"d0": 1}
    assert plan(house([72], [4], pages=20, watermark=0.95)) == {"p0": 4}


def test_the_watermark_counts_the_whole_prompt_not_its_first_chunk(house: House) -> None:
    assert plan(house([40], [160], pages=50)) == {"d0": 1}


def test_the_watermark_counts_what_this_batch_has_admitted(house: House) -> None:
    assert plan(house([], [20, 20, 20, 20], pages=20, watermark=0.8)) == {"p0": 20, "p1": 20, "p2": 20}


def test_the_watermark_holds_nobody_back_from_an_empty_house(house: House) -> None:
    assert plan(house([], [40, 4], pages=10, watermark=0.5)) == {"p0": 40}


def test_total_tokens_bound_batches_with_prompts(house: House) -> None:
    assert plan(house([], [20, 20, 20], max_batch_total_tokens=45)) == {"p0": 20, "p1": 20}
    assert plan(house([20, 20, 20], [], max_batch_total_tokens=45)) == {"d0": 1, "d1": 1, "d2": 1}
    mixed = plan(house([20, 10], [10, 10], max_batch_total_tokens=45, in_flight_batching=True))
    assert mixed == {"d0": 1, "d1": 1, "p0": 10}


def test_a_prompt_that_is_begun_is_finished_first(house: House) -> None:
    engine = house([], [100, 10])
    policy = Continuous(SchedulerContext(limits=engine.limits))
    engine.run_step(policy)
    engine.run_step(policy)
    assert engine.log == [[("p0", 64)], [("p0", 36), ("p1", 10)]]


def test_cached_tokens_cost_no_budget(house: House) -> None:
    engine = house([], [60, 60])
    engine.set_cached("p0", 40)
    assert plan(engine) == {"p0": 20, "p1": 44}


def test_a_full_house_is_not_disturbed_by_looking_at_the_queue(house: House) -> None:
    engine = house([10] * 8, [5] * 100)
    plan(engine)
    assert engine.looked_at == 0


# A token takes a millisecond here, as does a step by itself; 0.85 of the time is used.


def test_a_prompt_beside_those_who_decode_has_as_many_tokens_as_time_allows(house: House) -> None:
    assert plan(house([10, 10], [60], in_flight_batching=True, mixed_step_seconds=0.04)) == {"d0": 1, "d1": 1, "p0": 31}


def test_short_prompts_share_the_time(house: House) -> None:
    made = plan(house([10, 10], [20, 5, 20], in_flight_batching=True, mixed_step_seconds=0.04))
    assert made == {"d0": 1, "d1": 1, "p0": 20, "p1": 5, "p2": 6}


def test_where_nobody_decodes_time_bounds_nothing(house: House) -> None:
    assert plan(house([], [60, 10], in_flight_batching=True, mixed_step_seconds=0.01)) == {"p0": 60, "p1": 4}


def test_prompts_have_as_much_time_as_those_who_decode_alone(house: House) -> None:
    limits = {"max_batch_size": 50, "max_batch_input_tokens": 200, "pages": 400}
    made = plan(house([10] * 40, [150], in_flight_batching=True, mixed_step_seconds=0.03, **limits))
    assert made["p0"] == 41


def test_a_prompt_moves_however_short_a_step_shall_be(house: House) -> None:
    made = plan(house([10, 10], [60, 60], in_flight_batching=True, mixed_step_seconds=0.001))
    assert made == {"d0": 1, "d1": 1, "p0": 16}


def test_a_whole_prompt_runs_beside_those_who_decode_but_for_other_prompts(house: House) -> None:
    limits = {"in_flight_batching": True, "mixed_step_seconds": 0.04, "chunked_prefill": False}
    assert plan(house([10], [50, 10], **limits)) == {"d0": 1, "p0": 50}
    assert plan(house([10], [20, 10, 30], **limits)) == {"d0": 1, "p0": 20, "p1": 10}


def test_in_turns_time_bounds_nothing(house: House) -> None:
    assert plan(house([10], [60], mixed_step_seconds=0.001)) == {"p0": 60}
