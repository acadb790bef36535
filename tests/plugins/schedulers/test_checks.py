"""The conformance class catches policies that are wrong; each of these breaks one promise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from maxserve.core.interfaces.scheduler import Plan, Scheduler, SchedulerContext, SequenceView, View
from maxserve.plugins.schedulers.continuous import Continuous
from maxserve.testing.scheduler import SchedulerChecks


class Starves(Continuous):
    """Long prompts wait for ever."""

    def plan(self, view: View, plan: Plan) -> None:
        for sequence in (*view.running, *view.waiting):
            if sequence.prompt_length < 80:
                plan.add(sequence, min(sequence.todo, plan.tokens_left))


class Sleeps(Continuous):
    """Plans nothing every third time."""

    calls = 0

    def plan(self, view: View, plan: Plan) -> None:
        self.calls += 1
        if self.calls % 3:
            super().plan(view, plan)


class Remembers(Continuous):
    """Plans sequences that are gone."""

    def __init__(self, context: SchedulerContext) -> None:
        super().__init__(context)
        self._seen: list[SequenceView] = []

    def plan(self, view: View, plan: Plan) -> None:
        for sequence in self._seen:
            plan.add(sequence, 1)
        self._seen = list(view.running)
        super().plan(view, plan)


class RepeatsItself(Continuous):
    def plan(self, view: View, plan: Plan) -> None:
        super().plan(view, plan)
        for sequence in view.running:
            plan.add(sequence, 1)


class Meddles(Continuous):
    """Writes where it should only look."""

    def plan(self, view: View, plan: Plan) -> None:
        for sequence in view.waiting:
            one: Any = sequence
            one._sequence.cached = 0
            one._sequence.prompt_length += 1
        super().plan(view, plan)


class ThrowsDice(Continuous):
    """Another order in each run."""

    def plan(self, view: View, plan: Plan) -> None:
        sequences = [*view.running, *view.waiting]
        random.SystemRandom().shuffle(sequences)
        for sequence in sequences:
            plan.add(sequence, sequence.todo)


class AnswersLast(Continuous):
    """Those who decode wait for as long as prompts come."""

    def plan(self, view: View, plan: Plan) -> None:
        self._prefill(view, plan, len(view.running), 0)
        if not plan.size:
            plan.add_each(view.running, 1)


class PreemptsAlways(Continuous):
    """No sequence is ever planned."""

    def plan(self, view: View, plan: Plan) -> None:
        for sequence in view.running:
            plan.preempt(sequence)
        super().plan(view, plan)


def failing(checks: SchedulerChecks) -> Iterator[str]:
    """The tests of the class that fail, run one after the other."""
    tests = {
        "finishes": checks.test_every_request_finishes,
        "repeats": checks.test_same_input_gives_same_plans,
        "empty": checks.test_an_empty_batch_is_fine,
        "flood": checks.test_a_flood_of_prompts_holds_no_other_back,
    }
    for name, test in tests.items():
        try:
            test()
        except AssertionError:
            yield name


BROKEN = [Starves, Sleeps, Remembers, RepeatsItself, Meddles, ThrowsDice, PreemptsAlways, AnswersLast]


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_policies_are_caught(broken: type[Continuous]) -> None:
    class Checks(SchedulerChecks):
        component = Scheduler(name="broken", build=broken)
        seeds = range(2)

    assert any(failing(Checks()))


def test_the_same_without_the_fault_passes() -> None:
    class Checks(SchedulerChecks):
        component = Scheduler(name="fine", build=Continuous)
        seeds = range(2)

    assert list(failing(Checks())) == []


def test_measures_are_reported() -> None:
    class Checks(SchedulerChecks):
        component = Scheduler(name="fine", build=Continuous)

    reported: dict[str, object] = {}
    Checks().test_many_waiting(lambda name, value: reported.__setitem__(name, value))
    assert set(reported) == {"microseconds_per_plan", "waiting_looked_at"}
