from __future__ import annotations

from dataclasses import replace
from typing import Any

from maxserve.interfaces.cache import CacheSizes
from maxserve.interfaces.observer import Distribution, StepStats
from maxserve.plugins.replicas.stats import ReplicaStats

PAGES = CacheSizes(total=10, free=4, cached=3, owned=3, host_hits=2)


def stats(**fields: Any) -> StepStats:
    return StepStats(**{"time": 1.0, "running": 1, "waiting": 2, "cache": PAGES, "steps": 5, "page_size": 64, **fields})


def test_statistics_are_sums() -> None:
    fleet = ReplicaStats(2)
    one = stats(
        prompt_tokens=7, iteration_tokens=Distribution((1, 2), 9), accepted_by_depth=(3, 1), adapters=(("x", 1, 0),)
    )
    other = stats(
        time=2.0,
        prompt_tokens=1,
        iteration_tokens=Distribution((1,), 1),
        accepted_by_depth=(2,),
        adapters=(("y", 0, 1), ("x", 2, 2)),
        adapter_slots=4,
    )
    assert fleet.add(0, one) == replace(one, replicas=(one, None))
    both = fleet.add(1, other)
    assert (both.time, both.page_size, both.running, both.waiting, both.prompt_tokens) == (2.0, 64, 2, 4, 8)
    assert both.cache == CacheSizes(total=20, free=8, cached=6, owned=6, host_hits=4)
    assert (both.iteration_tokens, both.accepted_by_depth) == (Distribution((2, 2), 10), (5, 1))
    assert set(both.adapters) == {("x", 3, 2), ("y", 0, 1)}
    assert both.adapter_slots == 4
    assert both.replicas == (one, other)


def test_totals_go_on_over_a_worker_that_died_and_its_state_does_not() -> None:
    fleet = ReplicaStats(2)
    fleet.add(0, stats(steps=9, prompt_tokens=90))
    fleet.add(1, stats(steps=1, prompt_tokens=10))
    for steps, tokens in ((1, 5), (2, 6), (1, 1)):  # of two workers more
        now = fleet.add(0, stats(steps=steps, prompt_tokens=tokens, running=0))
    assert (now.running, now.waiting, now.cache.total) == (1, 4, 20)
    assert now.prompt_tokens == 90 + 6 + 1 + 10
    assert now.cache.host_hits == 4 * 2


def test_a_replica_keeps_its_number_when_another_has_said_nothing() -> None:
    assert ReplicaStats(2).add(1, stats()).replicas == (None, stats())
