"""The fair scheduler conforms, fills batches as `continuous` does, and shares them by client."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.interfaces.scheduler import Limits, SchedulerContext
from maxserve.plugins.schedulers.continuous import Continuous
from maxserve.plugins.schedulers.fair import Config, Fair
from maxserve.testing.scheduler import SchedulerChecks
from maxserve.testing.simulation import Arrival, SimulatedEngine

House = Callable[..., SimulatedEngine]


class TestFair(SchedulerChecks):
    scheduler = "fair"

    def saw(self, microseconds: float, looked_at: int) -> None:
        assert looked_at < 64, "a plan must not walk the whole queue"


class TestWithWeights(SchedulerChecks):
    scheduler = "fair"
    sections = {Config: Config(weights={"a": 5.0, "b": 0.2})}  # noqa: RUF012


def fair(engine: SimulatedEngine, **config: Any) -> Fair:
    return Fair(SchedulerContext(limits=engine.limits, sections={Config: Config(**config)}))


def planned(engine: SimulatedEngine, policy: Continuous) -> dict[str, int]:
    """What the next step runs."""
    engine.run_step(policy)
    return dict(engine.log[-1])


def test_prompts_alternate_between_clients(house: House) -> None:
    engine = house([], [10] * 6, users="aaaabb", max_batch_input_tokens=200)
    assert list(planned(engine, fair(engine))) == ["p0", "p4", "p1", "p5", "p2", "p3"]


def test_service_is_tokens_not_requests(house: House) -> None:
    engine = house([], [40, 40, 10, 10, 10, 10, 10], users="aabbbbb", max_batch_input_tokens=200)
    assert list(planned(engine, fair(engine))) == ["p0", "p2", "p3", "p4", "p5", "p1", "p6"]


def test_weights_are_shares(house: House) -> None:
    engine = house([], [10] * 12, users="ab" * 6, max_batch_input_tokens=60)
    assert Counter(id_user(engine, planned(engine, fair(engine, weights={"a": 2.0})))) == {"a": 4, "b": 2}


def id_user(engine: SimulatedEngine, made: dict[str, int]) -> list[str]:
    return [{**engine.waiting, **engine.running}[id].request.user for id in made]


def test_cached_tokens_are_free(house: House) -> None:
    engine = house([], [40, 40, 40, 10, 40], users="aaabb", max_batch_input_tokens=200)
    for id in ("p0", "p1"):
        engine.set_cached(id, 36)
    assert list(planned(engine, fair(engine))) == ["p0", "p3", "p1", "p2", "p4"]


def test_a_newcomer_goes_before_the_queue_of_a_heavy_client(house: House) -> None:
    engine = house([], [10] * 100, users="a" * 100, max_batch_size=4)
    policy = fair(engine)
    for _ in range(5):
        engine.run_step(policy)
    engine.arrive(Arrival(id="new", prompt_length=10, end=200, user="b"))
    engine.abort(["p0"])
    engine.abort(["p1"])
    assert list(planned(engine, policy)) == ["p4", "new"]  # equals go in the order in which they came


def test_generated_tokens_are_service(house: House) -> None:
    """By their prompts alone, a was served less than b."""
    engine = house([], [10, 25, 10, 10], users="abab", max_batch_size=1)
    policy = fair(engine)
    for _ in range(30):
        assert list(planned(engine, policy)) == ["p0"]
    engine.abort(["p0"])
    assert list(planned(engine, policy)) == ["p1"]
    engine.abort(["p1"])
    assert list(planned(engine, policy)) == ["p3"]


def test_being_away_saves_up_nothing(house: House) -> None:
    """Who comes after others were served for long gets its share from now on, and not all of it."""
    engine = house([], [10] * 40, users="a" * 40, max_batch_size=1, max_batch_input_tokens=10)
    policy = fair(engine)
    _serve(engine, policy, 20)
    for number in range(40):
        engine.arrive(Arrival(id=f"b{number}", prompt_length=10, end=11, user="b"))
    assert Counter(_serve(engine, policy, 10)) == {"a": 5, "b": 5}


def _serve(engine: SimulatedEngine, policy: Fair, count: int) -> list[str]:
    """Lets so many requests come and go; whose they were."""
    users: list[str] = []
    while len(users) < count:
        for id in planned(engine, policy):
            users += id_user(engine, {id: 1}) if id in engine.running else [id_owner(id)]
            if id in engine.running:
                engine.abort([id])
    return users


def id_owner(id: str) -> str:
    return "b" if id.startswith("b") else "a"


def test_a_client_keeps_the_order_of_its_own_requests(house: House) -> None:
    engine = house([], [10] * 5, users="abaab", max_batch_input_tokens=200)
    made = list(planned(engine, fair(engine)))
    assert [id for id in made if id in ("p0", "p2", "p3")] == ["p0", "p2", "p3"]


def test_a_prompt_that_is_begun_is_finished_first(house: House) -> None:
    engine = house([], [100, 10], users="ab")
    policy = fair(engine)
    assert planned(engine, policy) == {"p0": 64}
    assert planned(engine, policy) == {"p0": 36, "p1": 10}


def test_aborted_requests_are_no_hindrance(house: House) -> None:
    engine = house([10] * 8, [10] * 6, users="aabbcc")
    policy = fair(engine)
    engine.run_step(policy)
    for id in ("p0", "p1", "p2", "d0", "d1"):
        engine.abort([id])
    assert list(planned(engine, policy)) == ["p3", "p4"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"in_flight_batching": True},
        {"chunked_prefill": False},
        {"max_batch_total_tokens": 200},
        {"max_batch_total_tokens": 200, "in_flight_batching": True},
        {"pages": 60, "watermark": 0.7},
    ],
    ids=str,
)
def test_batches_are_filled_as_those_of_continuous(changes: dict[str, Any]) -> None:
    """For one client the plans are the same, step by step."""
    given: dict[str, Any] = {"max_batch_size": 8, "max_batch_input_tokens": 64, "max_batch_total_tokens": None}
    limits = Limits(**(given | {"max_length": 120, "page_size": 4, "pages": 200} | changes))
    logs = []
    for policy in (Fair(SchedulerContext(limits=limits)), Continuous(SchedulerContext(limits=limits))):
        rng, engine = random.Random(3), SimulatedEngine(limits)
        for number in range(60):
            prompt = rng.choice([rng.randint(1, 20), rng.randint(60, 90)])
            end = prompt + rng.randint(1, 30)
            engine.arrive(Arrival(id=f"r{number}", prompt_length=prompt, end=end, user="one"))
            engine.run_step(policy)
        while engine.running or engine.waiting:
            engine.run_step(policy)
        logs.append(engine.log)
    assert logs[0] == logs[1]


def longest_wait(policy: type[Continuous]) -> int:
    """Steps until a light client's prompt runs, at most, while a heavy one keeps a hundred long ones in line."""
    limits = Limits(
        max_batch_size=4, max_batch_input_tokens=64, max_batch_total_tokens=None, max_length=200, page_size=4, pages=200
    )
    engine, made = SimulatedEngine(limits), policy(SchedulerContext(limits=limits))
    arrived: dict[str, int] = {}
    for step in range(1000):
        for number in range(len(engine._queues.by_user.get("heavy", ())), 100):
            engine.arrive(Arrival(id=f"heavy {step} {number}", prompt_length=60, end=90, user="heavy"))
        if step % 50 == 0:
            arrived[f"light {step}"] = step
            engine.arrive(Arrival(id=f"light {step}", prompt_length=10, end=20, user=f"light {step % 3}"))
        engine.run_step(made)
    began: dict[str, int] = {}
    for step, entries in enumerate(engine.log):
        for id, _ in entries:
            began.setdefault(id, step)
    return max(began.get(id, 1000) - step for id, step in arrived.items())


def test_nobody_waits_for_a_heavy_client() -> None:
    assert longest_wait(Fair) <= 35, "a row is free every thirty tokens"
    assert longest_wait(Continuous) > 500, "this is what it is for"


@pytest.mark.parametrize("weights", [{"weights": {"a": 0.0}}, {"weights": {"a": float("nan")}}, {"default_weight": -1}])
def test_weights_that_mean_nothing_are_refused(weights: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0 and finite"):
        Config(**weights)
