"""The step loop: admit → plan → run → draw → emit. Everything else in this folder is conducted from here."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from maxserve.core.engine.draw import INVALID
from maxserve.core.engine.plan import StepPlan, StepView
from maxserve.core.engine.sequence import NO_ROW, Queues, Sequence
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import StepStats
from maxserve.core.nouns import FinishReason, Output, Request

if TYPE_CHECKING:
    from maxserve.core.engine.batch import BatchBuilder
    from maxserve.core.engine.draw import Pipeline
    from maxserve.core.engine.runner import Runner
    from maxserve.core.interfaces import Cache, ModelInfo, StepPolicy
    from maxserve.core.nouns import Limits

log = logging.getLogger("maxserve.engine")

PATIENCE = 3  # empty plans in a row, with work waiting, before the oldest sequence is run without the policy
LONGEST_PAUSE = 60.0  # seconds; a policy that wants to wait longer is asked again meanwhile
ADVICE_INTERVAL = 1.0  # seconds between two lines about too little memory


@dataclass(slots=True)
class Counters:
    """What happened since the start."""

    steps: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What an engine is put together from; see assemble.py."""

    info: ModelInfo
    limits: Limits
    cache: Cache
    policy: StepPolicy
    policy_name: str
    builder: BatchBuilder
    runner: Runner
    pipeline: Pipeline
    read_params: Callable[[Mapping[str, Mapping[str, Any]]], Mapping[type[Any], Any]]
    failure_percent: float = 0.0
    check_when_idle: bool = False
    random: random.Random = field(default_factory=random.Random)


class Engine:
    """Continues requests, a step at a time. One thread owns it."""

    def __init__(self, parts: Parts) -> None:
        self.info = parts.info
        self._parts = parts
        self._cache = parts.cache
        self._limits = parts.limits
        self._queues = Queues()
        self._free_rows = list(reversed(range(parts.limits.rows)))
        self._counters = Counters()
        self._idle_plans = 0
        policy: Any = parts.policy
        self._idle_until: Callable[[], float | None] | None
        self._idle_until = policy.idle_until if hasattr(policy, "idle_until") else None
        self._resume: float | None = None  # while the policy waits: when to ask it again
        self._advised = float("-inf")
        self.simulates_failures = True
        self._policy_failed = False

    # --- requests come and go -----------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        return len(self._queues) > 0

    @property
    def pause(self) -> float | None:
        """Seconds for which a step is of no use unless a request comes or goes; None while there is none at all."""
        if not self.busy:
            return None
        return 0.0 if self._resume is None else min(max(0.0, self._resume - time.monotonic()), LONGEST_PAUSE)

    def add(self, request: Request) -> None:
        """Queues a request; RequestError when it can never be served."""
        if request.id in self._queues:
            raise RequestError(f"request id {request.id!r} is in use; ids must be unique")
        length = len(request.prompt)
        if not length:
            raise RequestError("the prompt holds no token; give at least one", param="prompt")
        if length >= self._limits.max_length:
            raise RequestError(
                f"the prompt has {length} tokens, which leaves no room within the model's length of "
                f"{self._limits.max_length}; shorten it",
                param="prompt",
                code="context_length_exceeded",
            )
        if request.params.max_tokens is not None and request.params.max_tokens < 1:
            raise RequestError("max_tokens must be at least 1", param="max_tokens")
        if not isinstance(request.params.seed, int | None):
            raise RequestError(f"seed must be a whole number, got {request.params.seed!r}", param="seed")
        _check_ids(request.prompt, self.info.vocab_size)
        self._queues.wait(self._sequence(request))

    def _sequence(self, request: Request) -> Sequence:
        params = request.params
        wanted = self._limits.max_length if params.max_tokens is None else len(request.prompt) + params.max_tokens
        eos = () if params.ignore_eos else self.info.eos_token_ids
        return Sequence(
            request,
            limit=min(self._limits.max_length, wanted),
            ends=frozenset((*eos, *params.stop_token_ids)),
            params=self._parts.read_params(params.fields),
            regimes=self._limits.prompt_regimes,
        )

    def abort(self, ids: Iterable[str]) -> None:
        """Forgets requests and frees what they hold; unknown ids are those that ended meanwhile."""
        for id in ids:
            sequence = self._queues.pop(id)
            if sequence is not None:
                self._release(sequence)

    def reset_prefix_cache(self) -> int:
        """Forgets cached prefixes nobody uses; returns the pages freed."""
        return self._cache.reset()

    def reset_counters(self) -> None:
        """Starts counting anew, after a warm-up that no client asked for."""
        self._counters = Counters()

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> list[Output]:
        """Runs the next batch and says what came of it. A failure in it ends its own requests and no others."""
        plan = self._plan()
        if not plan.entries:
            return []
        self._counters.steps += 1
        try:
            self._maybe_fail()
            batch = self._parts.builder.build(plan.entries)
            logits = self._parts.runner.run(batch)
            drawing = [s for s, n in plan.entries.items() if s.computed + n == s.length]
            tokens = self._parts.pipeline.draw(logits, drawing) if logits is not None else []
        except Exception as error:
            log.exception("a batch of %d sequences failed", plan.size)
            return [self._finish(s, "error", error=f"the model step failed: {error}") for s in plan.entries]
        self._commit(plan.entries)
        self._queues.run(drawing)
        self._counters.generated_tokens += len(tokens) - tokens.count(INVALID)
        outputs = [self._advance(sequence, token) for sequence, token in zip(drawing, tokens, strict=True)]
        if self._parts.check_when_idle and not self.busy:
            self.check()
        return outputs

    def next_outputs(self) -> list[Output]:
        """`step`, once there is use in it: for those who have nothing else to wait for."""
        if pause := self.pause:
            time.sleep(pause)
        return self.step()

    def _plan(self) -> StepPlan:
        """Asks the policy who runs; when all it asked for lacked pages, the oldest gets them from the newest."""
        plan = StepPlan(self._queues, self._cache, self._limits, self._free_rows)
        self._ask_policy(plan)
        if not plan.entries and plan.lacked_pages:
            plan.relieve()
        if plan.entries or not self.busy or self._resume is not None:
            self._idle_plans = 0
        else:
            self._count_idle_plan(plan)
        self._settle(plan)
        return plan

    def _ask_policy(self, plan: StepPlan) -> None:
        """A policy that fails keeps what it planned until then; requests are served all the same, if unfairly."""
        self._resume = None
        try:
            self._parts.policy.plan(StepView(self._queues, self._cache, self._counters.steps), plan)
            if self._idle_until is not None and not plan.entries:
                until = self._idle_until()
                self._resume = until if until is not None and until > time.monotonic() else None
        except Exception:
            if not self._policy_failed:
                log.exception("scheduler %r failed; this is said once", self._parts.policy_name)
            self._policy_failed = True
        self._queues.joined.clear()

    def _count_idle_plan(self, plan: StepPlan) -> None:
        self._idle_plans += 1
        if self._idle_plans >= PATIENCE:
            log.error(
                "scheduler %r planned nothing %d times while work waits; the oldest runs now",
                self._parts.policy_name,
                self._idle_plans,
            )
            self._run_oldest(plan)

    def _run_oldest(self, plan: StepPlan) -> None:
        oldest = next(iter((*self._queues.running.values(), *self._queues.prompts())))
        plan.add(oldest.view, oldest.length, whole=not self._limits.chunked_prefill)

    def _settle(self, plan: StepPlan) -> None:
        """Puts the preempted back in line (the oldest of them first) and notes what new rows found in the cache."""
        for sequence in plan.preempted:
            self._queues.wait_first(sequence)
        self._counters.preemptions += len(plan.preempted)
        if plan.preempted and plan.lacked_pages:
            self._advise_memory(len(plan.preempted))
        plan.preempted.clear()
        self._queues.begin(plan.opened)
        for sequence in plan.opened:
            if sequence.cached is None:
                sequence.cached = sequence.computed
                self._counters.prefix_queries += sequence.prompt_length
                self._counters.prefix_hits += sequence.computed
                self._counters.prompt_tokens += sequence.prompt_length

    def _advise_memory(self, count: int) -> None:
        """At most once a second: requests that lose their pages are computed twice."""
        now = time.monotonic()
        if now - self._advised < ADVICE_INTERVAL:
            return
        self._advised = now
        log.warning(
            "the cache is full: %d requests gave up their pages and will be computed again (%d since the start); give "
            "it more memory with --device-memory-utilization, or lower --max-batch-size or --kvcache-ce-watermark",
            count,
            self._counters.preemptions,
        )

    def _maybe_fail(self) -> None:
        """`--sim-failure`: lets a share of the batches fail, so that clients can be tried against it."""
        if self.simulates_failures and self._parts.random.random() * 100 < self._parts.failure_percent:
            raise RuntimeError("simulated failure (--sim-failure)")

    def _commit(self, entries: Mapping[Sequence, int]) -> None:
        commit = self._cache.commit
        for sequence, count in entries.items():
            sequence.computed = computed = sequence.computed + count
            commit(sequence.row, sequence.buffer[:computed])

    def _advance(self, sequence: Sequence, token: int) -> Output:
        """Gives a sequence its token and finds out whether it ends there."""
        if token == INVALID:
            return self._finish(sequence, "error", error="the model gave no finite logits for the next token")
        sequence.append(token)
        if token in sequence.ends:
            return self._finish(sequence, "stop", tokens=(token,))
        if sequence.length >= sequence.limit:
            return self._finish(sequence, "length", tokens=(token,))
        return Output(id=sequence.request.id, tokens=(token,), cached=sequence.cached or 0)

    def _finish(
        self, sequence: Sequence, reason: FinishReason, *, tokens: tuple[int, ...] = (), error: str | None = None
    ) -> Output:
        self._queues.pop(sequence.request.id)
        self._release(sequence)
        return Output(id=sequence.request.id, tokens=tokens, finish=reason, error=error, cached=sequence.cached or 0)

    def _release(self, sequence: Sequence) -> None:
        if sequence.started:
            self._cache.close(sequence.row)
            self._free_rows.append(sequence.row)
            sequence.row = NO_ROW

    # --- what others may know -----------------------------------------------------------------------------------

    def stats(self) -> StepStats:
        counters = self._counters
        return StepStats(
            time=time.time(),
            running=len(self._queues.running) + len(self._queues.begun),
            waiting=len(self._queues.waiting),
            cache=self._cache.sizes(),
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            preemptions=counters.preemptions,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            steps=counters.steps,
        )

    def check(self) -> None:
        """Recounts pages and rows; AssertionError when one is lost."""
        self._cache.check()
        held = sum(1 for _ in self._queues.holders())
        assert held + len(self._free_rows) == self._limits.rows, "a row is lost or held twice"
        if not self.busy:
            assert self._cache.sizes().owned == 0, "nobody runs, yet pages are owned"


def _check_ids(prompt: tuple[int, ...], vocab_size: int) -> None:
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        bad = next(t for t in prompt if not 0 <= t < vocab_size)
        raise RequestError(f"token id {bad} is outside the vocabulary of {vocab_size} tokens", param="prompt")
