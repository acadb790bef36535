"""Loads whose figures can be worked out by hand, or compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

STEP = "1000,10,0.5,0.25"
Figures: TypeAlias = Callable[..., dict[str, Any]]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """What simulate.py finds for some options."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import simulate

    def find(*typed: str) -> dict[str, Any]:
        given = simulate.arguments().parse_args(["--step", STEP, "--page-size", "16", *typed])
        found: dict[str, Any] = simulate.simulate(given)
        return found

    return find


def test_one_request_after_the_other_takes_what_its_steps_take(figures: Figures) -> None:
    """In microseconds: a step for the prompt, and one for each further token, which sees all before it."""
    found = figures("--replicas", "1", "--clients", "1", "--requests", "5", "--prompt", "100", "--output", "8")
    prompt = 1000 + 10 * 100 + 0.5 * 100 + 0.25 * (100 * 101 / 2)
    tokens = sum(1000 + 10 + (0.5 + 0.25) * (100 + n) for n in range(1, 8))
    assert found["simulated seconds"] == pytest.approx(5e-6 * (prompt + tokens))
    assert found["first token, ms, median"] == pytest.approx(prompt / 1000)
    assert found["requests"] == 5


def test_a_queue_grows_where_more_is_asked_than_can_be_done(figures: Figures) -> None:
    some = ("--replicas", "1", "--requests", "60", "--prompt", "64", "--output", "4", "--batch", "2")
    calm, crowd = figures(*some, "--rate", "10"), figures(*some, "--rate", "10000")
    assert crowd["first token, ms, 99 of 100"] > 5 * calm["first token, ms, 99 of 100"]
    assert figures(*some, "--rate", "10000", "--replicas", "4")["simulated seconds"] < crowd["simulated seconds"] / 2


def test_prefixes_stay_with_replicas_that_have_them(figures: Figures) -> None:
    shared = ("--replicas", "4", "--requests", "200", "--rate", "100", "--output", "4", "--pages", "512")
    prefixes = ("--prompt", "272", "--prefixes", "8", "--prefix-length", "256")
    by = {name: figures(*shared, *prefixes, "--balancer", name) for name in ("least_cost", "in_turn")}
    hits = {name: found["prompt tokens found in caches, %"] for name, found in by.items()}
    assert hits["least_cost"] > 85
    assert hits["in_turn"] < hits["least_cost"] - 5
    assert by["least_cost"]["first token, ms, mean"] < by["in_turn"]["first token, ms, mean"]


def test_a_run_can_be_had_again(figures: Figures) -> None:
    def again() -> dict[str, Any]:
        return {k: v for k, v in figures("--requests", "50").items() if k != "seconds of the simulation itself"}

    assert again() == again()
