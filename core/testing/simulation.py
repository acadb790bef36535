"""A small engine without a model, in which scheduling policies are tried."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from maxserve.core.nouns import CacheSizes, Limits
from maxserve.core.scheduling import SequenceView, StepPolicy


@dataclass(slots=True, eq=False)
class Simulated:
    """A sequence of the simulated engine. `end` is the length at which it is done; `computed` tokens hold pages."""

    id: str
    prompt_length: int
    end: int
    arrived: float
    cached: int = 0
    user: str = ""
    priority: int = 0
    length: int = 0
    computed: int = 0
    pages: int = 0

    def state(self) -> tuple[Any, ...]:
        return (self.id, self.prompt_length, self.end, self.cached, self.length, self.computed, self.pages)


class Seen:
    """What a policy sees of a sequence."""

    __slots__ = ("_now", "_sequence")

    def __init__(self, sequence: Simulated, now: float) -> None:
        self._sequence = sequence
        self._now = now

    @property
    def id(self) -> str:
        return self._sequence.id

    @property
    def todo(self) -> int:
        return self._sequence.length - (self._sequence.computed or self._sequence.cached)

    @property
    def length(self) -> int:
        return self._sequence.length

    @property
    def prompt_length(self) -> int:
        return self._sequence.prompt_length

    @property
    def generated(self) -> int:
        return self._sequence.length - self._sequence.prompt_length

    @property
    def started(self) -> bool:
        return self._sequence.pages > 0

    @property
    def waited(self) -> float:
        return self._now - self._sequence.arrived

    @property
    def user(self) -> str:
        return self._sequence.user

    @property
    def priority(self) -> int:
        return self._sequence.priority


class SimulatedView:
    """A view that counts how much of the waiting queue was looked at."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self.looked_at = 0

    @property
    def running(self) -> Sequence[SequenceView]:
        return tuple(Seen(sequence, self.now) for sequence in self._engine.running.values())

    @property
    def waiting(self) -> Iterator[SequenceView]:
        begun = self._begun()
        return self._looked_at(chain(begun, (s for s in self._engine.waiting.values() if s not in begun)))

    def waiting_of(self, user: str) -> Iterator[SequenceView]:
        own = self._engine.users.get(user, {})
        return self._looked_at(chain((s for s in self._begun() if s.user == user), own.values()))

    @property
    def waiting_users(self) -> Collection[str]:
        return self._engine.users.keys()

    @property
    def joined(self) -> Sequence[SequenceView]:
        return [Seen(sequence, self.now) for sequence in self._engine.joined]

    def _begun(self) -> list[Simulated]:
        return [sequence for sequence in self._engine.holders.values() if sequence.id in self._engine.waiting]

    def _looked_at(self, sequences: Iterable[Simulated]) -> Iterator[SequenceView]:
        for sequence in sequences:
            self.looked_at += 1
            yield Seen(sequence, self.now)

    @property
    def waiting_count(self) -> int:
        return len(self._engine.waiting)

    @property
    def cache(self) -> CacheSizes:
        total, owned = self._engine.limits.pages, self._engine.owned
        return CacheSizes(total=total, free=total - owned, cached=0, owned=owned)

    @property
    def now(self) -> float:
        return self._engine.now


class SimulatedPlan:
    """A plan that grants what the engine's own would grant, and notes every wrong question."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self._engine = engine
        self._limits = engine.limits
        self.tokens_left = engine.limits.max_batch_input_tokens
        self.entries: dict[Simulated, int] = {}
        self.preempted: list[Simulated] = []

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def rows_left(self) -> int:
        return self._limits.rows - len(self._engine.holders)

    def add(self, sequence: SequenceView, tokens: int, *, whole: bool = False) -> int:
        wanted = self._known(sequence)
        assert wanted not in self.entries, f"{wanted.id} was planned twice"
        if wanted in self.preempted or tokens < 1 or not (wanted.pages or self.rows_left):
            return 0
        if self.size == self._limits.max_batch_size:
            return 0
        computed = wanted.computed or wanted.cached
        todo = wanted.length - computed
        granted = self._clip(todo, tokens, whole)
        if not granted or not self._take_pages(wanted, computed + granted):
            return 0
        wanted.computed = computed
        self.entries[wanted] = granted
        self.tokens_left = max(0, self.tokens_left - granted)
        return granted

    def add_each(self, sequences: Iterable[SequenceView], tokens: int) -> None:
        for sequence in sequences:
            self.add(sequence, tokens)

    def preempt(self, sequence: SequenceView) -> None:
        wanted = self._known(sequence)
        if wanted.pages and wanted not in self.entries:
            self.take_back(wanted)

    def take_back(self, victim: Simulated) -> None:
        self._engine.release(victim)
        self.preempted.append(victim)

    def _known(self, sequence: SequenceView) -> Simulated:
        assert isinstance(sequence, Seen), f"{sequence!r} is no sequence of the view"
        known = sequence._sequence
        assert known.id in self._engine.running or known.id in self._engine.waiting, f"{known.id} is not there any more"
        return known

    def _clip(self, todo: int, tokens: int, whole: bool) -> int:
        if not whole:
            return min(tokens, todo, self.tokens_left)
        soft = not self._limits.chunked_prefill and self.tokens_left > 0
        return todo if todo <= self.tokens_left or soft or not self.entries else 0

    def _take_pages(self, sequence: Simulated, length: int) -> bool:
        """One who decodes may take pages from those who came after it; a prompt may not."""
        need = -(-length // self._limits.page_size) - sequence.pages
        while self._engine.owned + need > self._limits.pages:
            if sequence.id not in self._engine.running:
                return False
            victim = next(s for s in self._engine.newest_holders() if s not in self.entries)
            self.take_back(victim)
            if victim is sequence:
                return False
        self._engine.owned += need
        self._engine.holders[sequence.id] = sequence
        sequence.pages += need
        return True


@dataclass(slots=True)
class SimulatedEngine:
    """Queues, pages and a clock that ticks once per step. `log` holds every plan: id and tokens.

    `holders` are those with pages, in the order in which they got the first ones; `users` has those who wait without
    any, by user. `rested`: in the last step nobody ran, and the clock went on to when the policy wants to be asked.
    `spent` is how many seconds the last plan took, `looked_at` how many it read of those who wait.
    """

    limits: Limits
    waiting: dict[str, Simulated] = field(default_factory=dict)
    running: dict[str, Simulated] = field(default_factory=dict)
    holders: dict[str, Simulated] = field(default_factory=dict)
    users: dict[str, dict[str, Simulated]] = field(default_factory=dict)
    joined: list[Simulated] = field(default_factory=list)
    owned: int = 0
    now: float = 0.0
    log: list[list[tuple[str, int]]] = field(default_factory=list)
    preemptions: int = 0
    rested: bool = False
    spent: float = 0.0
    looked_at: int = 0

    def newest_holders(self) -> list[Simulated]:
        return list(reversed(self.holders.values()))

    def arrive(self, sequence: Simulated) -> None:
        sequence.length = sequence.prompt_length
        self.waiting[sequence.id] = sequence
        self.users.setdefault(sequence.user, {})[sequence.id] = sequence
        self.joined.append(sequence)

    def abort(self, id: str) -> None:
        """Nobody waits for it any more."""
        sequence = self.waiting.pop(id, None) or self.running.pop(id)
        self._leave_line(sequence)
        if sequence.pages:
            self.release(sequence)

    def _leave_line(self, sequence: Simulated) -> None:
        own = self.users.get(sequence.user, {})
        own.pop(sequence.id, None)
        if not own:
            self.users.pop(sequence.user, None)

    def release(self, sequence: Simulated) -> None:
        """Takes all its pages."""
        self.owned -= sequence.pages
        sequence.pages = sequence.computed = 0
        del self.holders[sequence.id]

    def step(self, policy: StepPolicy) -> None:
        """Plans, asking again when all who hold pages are stuck, and computes the plan."""
        plan = self._ask(policy)
        resting: Any = policy
        until = resting.idle_until() if hasattr(resting, "idle_until") and not plan.entries else None
        self.rested = until is not None and until > self.now
        while not plan.entries and not self.rested and len(self.holders) > 1:
            plan.take_back(self.newest_holders()[0])
            self._settle(plan)
            plan = self._ask(policy)
        self.log.append([(sequence.id, tokens) for sequence, tokens in plan.entries.items()])
        self._compute(plan)
        self.now = until if self.rested and until is not None else self.now + 0.01

    def _ask(self, policy: StepPolicy) -> SimulatedPlan:
        plan = SimulatedPlan(self)
        before = self._untouched(plan)
        view, began = SimulatedView(self), time.perf_counter()
        policy.plan(view, plan)
        self.spent, self.looked_at = time.perf_counter() - began, view.looked_at
        after = self._untouched(plan)
        changed = [id for id, state in after.items() if before[id] != state]
        assert not changed, f"planning changed {', '.join(changed)} other than through the plan"
        assert list(before) == [*self.waiting, *self.running], "planning changed the queues"
        self.joined.clear()
        self._settle(plan)
        return plan

    def _untouched(self, plan: SimulatedPlan) -> dict[str, tuple[Any, ...]]:
        """The state of all whom the plan did not touch so far."""
        touched = {*plan.entries, *plan.preempted}
        everyone = (*self.waiting.values(), *self.running.values())
        return {s.id: s.state() for s in everyone if s not in touched}

    def _settle(self, plan: SimulatedPlan) -> None:
        """Puts the preempted back in line, the oldest of them first."""
        for sequence in plan.preempted:
            self.running.pop(sequence.id, None)
            self.waiting.pop(sequence.id, None)
            self.waiting = {sequence.id: sequence, **self.waiting}
            self.users[sequence.user] = {sequence.id: sequence, **self.users.get(sequence.user, {})}
            self.joined.append(sequence)
        self.preemptions += len(plan.preempted)
        plan.preempted.clear()

    def _compute(self, plan: SimulatedPlan) -> None:
        for sequence, tokens in plan.entries.items():
            self._leave_line(sequence)
            sequence.computed += tokens
            if sequence.computed < sequence.length:
                continue
            sequence.length += 1
            if sequence.id in self.waiting:
                self.running[sequence.id] = self.waiting.pop(sequence.id)
            if sequence.length >= sequence.end:
                del self.running[sequence.id]
                self.release(sequence)
