"""Checks of schedulers. It plans for the engine's own loop, without a model.

class TestMine(SchedulerChecks):
    scheduler = "mine"
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from maxserve.core.interfaces.component import Context
from maxserve.core.interfaces.scheduler import Limits, Scheduler, SchedulerContext, StepPolicy
from maxserve.testing.resolve import load, resolve
from maxserve.testing.simulation import Arrival, SimulatedEngine

FLOOD = 96  # steps in which prompts never end
MOST_HELD = 12  # of them for each token of who decodes meanwhile


class SchedulerChecks:
    """Subclass it and name a registered `scheduler`, or give the `component` itself.

    `sections` are the plugin's settings, by schema, as its `context.config` will see them.
    """

    scheduler: ClassVar[str] = ""
    component: ClassVar[Scheduler | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}
    seeds: ClassVar[range] = range(3)
    requests: ClassVar[int] = 60

    limits: ClassVar[dict[str, dict[str, Any]]] = {
        "plain": {},
        "in flight": {"in_flight_batching": True},
        "whole prompts": {"chunked_prefill": False},
        "whole in flight": {"chunked_prefill": False, "in_flight_batching": True},
        "few pages": {"pages": 40},
        "few pages in flight": {"pages": 40, "in_flight_batching": True, "watermark": 1.0},
        "one row": {"max_batch_size": 1},
        "total tokens": {"max_batch_total_tokens": 160},
        "total tokens in flight": {"max_batch_total_tokens": 160, "in_flight_batching": True},
        "short steps in flight": {"mixed_step_seconds": 0.03, "in_flight_batching": True},
        "short steps, whole in flight": {
            "mixed_step_seconds": 0.03,
            "chunked_prefill": False,
            "in_flight_batching": True,
        },
    }

    def policy(self, limits: Limits) -> StepPolicy:
        """A fresh policy."""
        build: Callable[[SchedulerContext], StepPolicy] = load(self._declared().build)
        return build(SchedulerContext(limits=limits, sections=self.sections))

    def _declared(self) -> Scheduler:
        return resolve(Scheduler, self.scheduler, self.component)

    def _limits(self, **changes: Any) -> Limits:
        """The limits as the engine would make them for this scheduler."""
        limits = _limits(**changes)
        declared = self._declared()
        chunked = limits.chunked_prefill and declared.chunks_prompts
        mixed = limits.in_flight_batching and declared.mixes_prompts
        started = None if declared.max_started is None else load(declared.max_started)(Context(sections=self.sections))
        return replace(limits, chunked_prefill=chunked, in_flight_batching=mixed, max_started=started)

    def test_declares_options_that_are_up_to_schedulers(self) -> None:
        from maxserve.core.config.catalog import catalog
        from maxserve.core.config.settings import PluginSection
        from maxserve.testing.sections import built_in_sections

        own = [PluginSection(name=f"own-{i}", schema=each, plugin="own") for i, each in enumerate(self.sections)]
        options = [*catalog(built_in_sections()), *catalog(own)]
        known = {option.key for option in options if option.marker.used_by == "scheduler"}
        unknown = set(self._declared().honours) - known
        assert not unknown, f"honours {sorted(unknown)}; options that are up to schedulers are {sorted(known)}"

    def test_every_request_finishes(self) -> None:
        for name, changes in self.limits.items():
            for seed in self.seeds:
                limits = self._limits(**changes)
                engine = self._simulate(self.policy(limits), limits, seed, name)
                assert not engine.owned, f"{name}: pages are lost"
                self._check_budget(engine, name)

    def test_same_input_gives_same_plans(self) -> None:
        for name, changes in self.limits.items():
            limits = self._limits(**changes)
            first, second = (self._simulate(self.policy(limits), limits, 0, name).log for _ in range(2))
            assert first == second, f"{name}: two runs of the same requests were planned differently"

    def test_an_empty_batch_is_fine(self) -> None:
        limits = self._limits()
        engine = SimulatedEngine(limits)
        engine.run_step(self.policy(limits))
        assert engine.log == [[]]

    def test_a_flood_of_prompts_holds_no_other_back(self) -> None:
        """Prompts of one token each, and more of them in every step than it has places for, beside one who decodes."""
        for name, changes in self.limits.items():
            limits = self._limits(**changes | {"max_batch_size": 8, "pages": 200})
            policy, engine = self.policy(limits), SimulatedEngine(limits)
            engine.place(Arrival(id="answer", prompt_length=10, end=limits.max_length), length=10)
            answer = engine.running["answer"]
            for step in range(FLOOD):
                for number in range(8):
                    engine.arrive(Arrival(id=f"{step}.{number}", prompt_length=8, end=9, user="flood"))
                engine.run_step(policy)
            assert answer.generated >= FLOOD // MOST_HELD, (
                f"{name}: who decodes got {answer.generated} tokens in {FLOOD} steps with prompts"
            )

    def test_a_long_prompt_keeps_to_the_time_of_a_mixed_step(self) -> None:
        """A step takes a millisecond for each token here; who honours `max_mixed_step_ms` plans 30 of them at most."""
        if "max_mixed_step_ms" not in self._declared().honours:
            return
        limits = self._limits(in_flight_batching=True, mixed_step_seconds=0.03, max_batch_input_tokens=500)
        policy, engine = self.policy(limits), SimulatedEngine(limits)
        engine.place(Arrival(id="answer", prompt_length=10, end=limits.max_length), length=10)
        engine.arrive(Arrival(id="long", prompt_length=100, end=104))
        while engine.waiting:
            engine.run_step(policy)
            planned = dict(engine.log[-1])
            assert "answer" in planned, "a prompt was run without the one who decodes"
            assert sum(planned.values()) <= 30, f"a step of {sum(planned.values())} tokens takes longer than 0.03 s"
            assert planned.get("long"), "the prompt was given nothing, though there was time"

    def test_many_waiting(self, record_property: Callable[[str, object], None]) -> None:
        """Reports µs per plan and how much of a queue of 10,000 a plan looked at, beside 256 who run.

        Once they are all one user's, and once each is another's.
        """
        limits = self._limits(max_batch_size=512, max_batch_input_tokens=8192, pages=40_000, max_length=4096)
        looked_at, microseconds = 0, 0.0
        for users in (1, 10_000):
            spent, looked = self._watch(limits, users)
            looked_at, microseconds = max(looked_at, looked), max(microseconds, spent * 1e6)
        record_property("microseconds_per_plan", round(microseconds))
        record_property("waiting_looked_at", looked_at)
        self.saw(microseconds, looked_at)

    def _watch(self, limits: Limits, users: int) -> tuple[float, int]:
        """Seconds of a plan, the best of five, and the most that one looked at."""
        policy, engine = self.policy(limits), _crowd(limits, running=256, waiting=10_000, users=users)
        engine.run_step(policy)  # it hears of all
        watched = []
        for _ in range(5):
            engine.run_step(policy)
            watched.append((engine.spent, engine.looked_at))
        return min(spent for spent, _ in watched), max(looked_at for _, looked_at in watched)

    def saw(self, microseconds: float, looked_at: int) -> None:
        """Hears what `test_many_waiting` measured; a subclass may judge it."""

    def _simulate(self, policy: StepPolicy, limits: Limits, seed: int, name: str) -> SimulatedEngine:
        arrivals, engine = _arrivals(random.Random(seed), limits, self.requests), SimulatedEngine(limits)
        bound = _bound([sequence for _, sequence in arrivals], limits)
        for step in range(bound):
            while arrivals and arrivals[0][0] <= step:
                engine.arrive(arrivals.pop(0)[1])
            busy = engine.busy
            if not busy and not arrivals:
                return engine
            engine.run_step(policy)
            assert engine.log[-1] or engine.rested or not busy, (
                f"{name}: nothing was planned in step {step}, though work waits"
            )
        left = [*engine.running, *engine.waiting]
        raise AssertionError(f"{name}: after {bound} steps {', '.join(left)} are not done")

    def _check_budget(self, engine: SimulatedEngine, name: str) -> None:
        limits = engine.limits
        for step, planned in enumerate(engine.log):
            tokens = [count for _, count in planned]
            spent = sum(tokens) if limits.chunked_prefill else sum(tokens[:-1])  # whole prompts: the last may exceed
            assert spent <= limits.max_batch_input_tokens, f"{name}: {spent} tokens in step {step}"
            assert len(planned) <= limits.max_batch_size, f"{name}: {len(planned)} sequences in step {step}"


def _limits(**changes: Any) -> Limits:
    given: dict[str, Any] = {"max_batch_size": 8, "max_batch_input_tokens": 64, "max_batch_total_tokens": None}
    given |= {"max_length": 120, "page_size": 4, "pages": 200}
    return Limits(**(given | changes))


def _arrivals(rng: random.Random, limits: Limits, count: int) -> list[tuple[int, Arrival]]:
    """(step, sequence), in order: mostly short prompts, some long, in bursts and lulls."""
    step, arrivals = 0, []
    for number in range(count):
        step += rng.choice([0, 0, 0, 1, 3, 40])
        prompt = rng.choice([rng.randint(1, 20), rng.randint(1, 20), rng.randint(60, limits.max_length - 20)])
        cached = rng.randrange(prompt) // limits.page_size * limits.page_size if rng.random() < 0.3 else 0
        end = min(limits.max_length, prompt + rng.randint(1, 30))
        user, priority = rng.choice("abc"), rng.randint(0, 2)
        arrival = Arrival(id=f"r{number}", prompt_length=prompt, end=end, cached=cached, user=user, priority=priority)
        arrivals.append((step, arrival))
    return arrivals


def _crowd(limits: Limits, *, running: int, waiting: int, users: int) -> SimulatedEngine:
    """An engine in full swing."""
    engine = SimulatedEngine(limits)
    for number in range(running):
        engine.place(Arrival(id=f"run{number}", prompt_length=100, end=500), length=200)
    for number in range(waiting):
        engine.arrive(Arrival(id=f"wait{number}", prompt_length=300, end=400, user=f"user{number % users}"))
    return engine


def _bound(sequences: Sequence[Arrival], limits: Limits) -> int:
    """Steps that suffice when one runs after the other, ten times over; and the lulls."""
    alone = sum(-(-s.prompt_length // limits.max_batch_input_tokens) + s.end - s.prompt_length for s in sequences)
    return 10 * alone + 40 * len(sequences)
