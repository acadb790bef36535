"""The engine's own step loop without a model, in which scheduling policies are tried."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.assembly.no_adapters import no_adapters
from maxserve.core.engine.loop import Engine
from maxserve.core.engine.parts import Parts
from maxserve.core.engine.plan import StepPlan, StepView
from maxserve.core.engine.sequence import Sequence
from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.interfaces.runner import ModelOutput
from maxserve.core.interfaces.scheduler import Limits, Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.engine.in_flight import InFlightStep
    from maxserve.core.interfaces.cache import Cache, KVLayer
    from maxserve.core.interfaces.request import Output
    from maxserve.core.interfaces.scheduler import SequenceView, StepCost, StepPolicy

TICK = 0.01  # seconds that a step takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A request of the simulation: it ends at the length `end`; `cached` tokens of its prompt are in the cache."""

    id: str
    prompt_length: int
    end: int
    cached: int = 0
    user: str = ""
    priority: int = 0


class CheckedView(StepView):
    """A view that counts how much of the waiting queue was read."""

    looked_at = 0

    def _looked_at(self, sequences: Iterable[Sequence]) -> Iterator[SequenceView]:
        for view in super()._looked_at(sequences):
            self.looked_at += 1
            yield view


class CheckedPlan(StepPlan):
    """A plan that grants what the engine's grants, and takes a wrong question for a mistake of the policy."""

    def add(self, sequence: SequenceView, tokens: int, *, whole: bool = False) -> int:
        wanted = self._own(sequence)
        assert wanted not in self.entries, f"{wanted.id} was planned twice"
        assert wanted.id in self._queues, f"{wanted.id} is not there any more"
        return super().add(sequence, tokens, whole=whole)

    def add_each(self, sequences: Iterable[SequenceView], tokens: int) -> None:
        for sequence in sequences:
            self.add(sequence, tokens)


class CountedCache:
    """Pages that are counted and hold nothing. What of a prompt is cached is set beforehand, by its first token."""

    def __init__(self, limits: Limits) -> None:
        self.block_tables: NDArray[np.int32] = np.zeros((limits.rows, 1), dtype=np.int32)
        self.layers: SequenceOf[KVLayer] = ()
        self.cached: dict[int, int] = {}
        self._page_size = limits.page_size
        self._total = limits.pages
        self._pages: dict[int, int] = {}  # by row
        self.owned = 0

    def peek(self, tokens: NDArray[np.int64], salt: str) -> int:
        return min(self.cached.get(int(tokens[0]), 0), len(tokens) - 1)

    def open(self, row: int, tokens: NDArray[np.int64], salt: str) -> int:
        hit = self.peek(tokens, salt)
        self._pages[row] = 0
        return hit if self.reserve(row, hit) else 0

    def reserve(self, row: int, length: int) -> bool:
        more = max(0, -(-length // self._page_size) - self._pages[row])
        if self.owned + more > self._total:
            return False
        self._pages[row] += more
        self.owned += more
        return True

    def commit(self, row: int, tokens: NDArray[np.int64]) -> None: ...

    def truncate(self, row: int, length: int) -> None:
        fewer = max(0, self._pages[row] - -(-length // self._page_size))
        self._pages[row] -= fewer
        self.owned -= fewer

    def close(self, row: int) -> None:
        self.owned -= self._pages.pop(row)

    def sizes(self) -> CacheSizes:
        return CacheSizes(total=self._total, free=self._total - self.owned, cached=0, owned=self.owned)

    def reset(self) -> int:
        return 0

    def check(self) -> None: ...


class KnownCost:
    """A StepCost: steps take a millisecond, and another one for each token."""

    def wants(self, number: int, *, draws: bool, decodes: bool) -> bool:
        return False

    def learn(self, work: Work, seconds: float) -> None: ...

    def seconds(self, work: Work) -> float:
        return 0.001 + 0.001 * work.tokens

    def most(self, beside: Work, start: int, seconds: float) -> int:
        return max(0, int(1000 * (seconds - self.seconds(beside)) + 1e-6))


class Nothing:
    """Stands for batch builder, model and draw: every sequence that draws gets the token 1."""

    def build(self, step: Any) -> Any:
        return step.drawing

    def run(self, inputs: Any) -> Any:
        return ModelOutput(logits=inputs, hidden=inputs)

    def decide(self, logits: Any, in_flight: InFlightStep) -> None:
        in_flight.tokens = np.ones(len(in_flight.drawing), dtype=np.int64)


class SimulatedEngine(Engine):
    """The engine's queues, plans and pages under a clock that ticks once a step. `log` holds every plan: id and tokens.

    `rested`: in the last step none ran, and the clock went on to when the policy wants to be asked. `spent` is how many
    seconds the last plan took, `looked_at` how much it read of the queue of those who wait. What a policy does
    wrong raises here, where a server would go on without it.
    """

    plan_class = CheckedPlan

    def __init__(self, limits: Limits) -> None:
        self.cache = CountedCache(limits)
        super().__init__(simulated_parts(limits, self.cache))
        self.now = 0.0
        self.log: list[list[tuple[str, int]]] = []
        self.rested = False
        self.spent = 0.0
        self.looked_at = 0
        self._numbers = 1  # prompts of one number each have no prefix in common

    # --- requests come and go -----------------------------------------------------------------------------------

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        """Other limits, for who asks while nothing but the first rows is taken."""
        held = self._limits.rows - len(self._free_rows)
        self._limits = limits
        self._free_rows = list(reversed(range(held, limits.rows)))

    def arrive(self, arrival: Arrival) -> None:
        with simulated_clock(self.now):
            self.add(self._request(arrival))

    def place(self, arrival: Arrival, *, length: int) -> None:
        """A sequence that decodes already: all but the last of its `length` tokens are in its pages."""
        with simulated_clock(self.now):
            sequence = self._sequence(self._request(arrival))
        row = self._free_rows.pop()
        self.cache.open(row, sequence.tokens, "")
        assert self.cache.reserve(row, length - 1), "there are too few pages for the sequences that decode"
        sequence.take_row(row, length - 1, self._limits.page_size)
        for _ in range(length - arrival.prompt_length):
            sequence.append(1)
        self._queues.running[sequence.id] = sequence

    def set_cached(self, id: str, tokens: int) -> None:
        """So many tokens at the start of the prompt are in the cache."""
        self.cache.cached[self.waiting[id].request.prompt[0]] = tokens

    def _request(self, arrival: Arrival) -> Request:
        self._numbers += 1
        self.cache.cached[self._numbers] = arrival.cached
        return Request(
            id=arrival.id,
            prompt=(self._numbers,) * arrival.prompt_length,
            params=SamplingParams(max_tokens=arrival.end - arrival.prompt_length),
            user=arrival.user,
            priority=arrival.priority,
        )

    # --- what is looked at ----------------------------------------------------------------------------------------

    @property
    def running(self) -> Mapping[str, Sequence]:
        return self._queues.running

    @property
    def waiting(self) -> Mapping[str, Sequence]:
        """Begun prompts and the others."""
        return {**self._queues.begun, **self._queues.waiting}

    @property
    def owned(self) -> int:
        return self.cache.owned

    # --- a step -----------------------------------------------------------------------------------------------------

    def run_step(self, policy: StepPolicy) -> list[Output]:
        """Plans with the policy and computes the plan."""
        steps = len(self.log)
        self._parts = replace(self._parts, policy=policy)
        self._idle_until = getattr(policy, "idle_until", None)
        with simulated_clock(self.now):
            outputs = self._step_at_once()
        if len(self.log) == steps:
            self.log.append([])
        self.rested = not self.log[-1] and self._resume is not None
        self.now = self._resume if self.rested and self._resume is not None else self.now + TICK
        return outputs

    def _run_step(self, entries: Mapping[Sequence, int]) -> list[Output]:
        self.log.append([(sequence.id, tokens) for sequence, tokens in entries.items()])
        return super()._run_step(entries)

    def _ask_policy(self, plan: StepPlan) -> None:
        """As a server does it, but that failures are reported and what the policy touched is looked at."""
        self._resume = None
        before = self._untouched(plan)
        began = time.perf_counter()
        view = CheckedView(self._queues, self._cache, self._counters.steps)
        self._consult_policy(view, plan)
        self.spent, self.looked_at = time.perf_counter() - began, view.looked_at
        changed = [id for id, state in self._untouched(plan).items() if before.get(id) != state]
        assert not changed, f"planning changed {', '.join(changed)} other than through the plan"
        self._queues.joined.clear()

    def _count_idle_plan(self, plan: StepPlan) -> None:
        """A server would run the oldest after a while; here an empty plan is for the checks to judge."""

    def _untouched(self, plan: StepPlan) -> dict[str, tuple[Any, ...]]:
        """The state of all whom the plan did not touch so far."""
        touched = {*plan.entries, *plan.preempted}
        all_of_them = (*self.waiting.values(), *self.running.values())
        return {s.id: (s.prompt_length, s.length, s.computed, s.row, s.limit) for s in all_of_them if s not in touched}


@contextmanager
def simulated_clock(now: float) -> Iterator[None]:
    """It is `now` while the block runs."""
    real = time.monotonic
    setattr(time, "monotonic", lambda: now)  # noqa: B010 (what patch does, without its cost in every step)
    try:
        yield
    finally:
        setattr(time, "monotonic", real)  # noqa: B010


def simulated_parts(
    limits: Limits, cache: Cache, *, policy: StepPolicy | None = None, cost: StepCost | None = None
) -> Parts:
    """The parts of an engine without a model, in which a policy may also be given with each step."""
    nothing: Any = Nothing()
    return Parts(
        info=ModelInfo(
            name="none",
            path="",
            architecture="none",
            max_length=limits.max_length,
            vocab_size=1 << 40,
            eos_token_ids=(),
            dtype="float32",
            device="cpu",
            parameters=0,
            max_batch_size=limits.max_batch_size,
            created=0,
        ),
        limits=limits,
        cache=cache,
        policy=policy or nothing,
        policy_name="simulated",
        builder=nothing,
        runner=nothing,
        pipeline=nothing,
        cost=cost or KnownCost(),
        read_params=lambda fields: {},
        adapters=no_adapters(),
    )
