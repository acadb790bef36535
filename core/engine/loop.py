"""The step loop: admit → plan → run → draw → emit. Everything else in this folder is conducted from here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from maxserve.core.engine.emit import Emitter, merged
from maxserve.core.engine.in_flight import InFlightStep
from maxserve.core.engine.ledger import Ledger
from maxserve.core.engine.overlap import Overlap
from maxserve.core.engine.parts import Counters, Parts
from maxserve.core.engine.plan import StepPlan, StepView
from maxserve.core.engine.queues import Queues
from maxserve.core.engine.sequence import Sequence, salt_of
from maxserve.core.engine.step import Step
from maxserve.core.engine.validation import validate_ids, validate_request
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import EncodeRequest, Output, Request
from maxserve.core.interfaces.scheduler import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.interfaces.adapter import SlottedAdapter
    from maxserve.core.interfaces.request import AdapterChange

log = logging.getLogger("maxserve.engine")

PATIENCE = 3  # empty plans in a row, with work waiting, before the oldest sequence is run without the policy
LONGEST_BETWEEN = 0.002  # seconds from one step to the next that are taken for work on outputs and plans
LONGEST_PAUSE = 60.0  # seconds; a policy that wants to wait longer is asked again meanwhile


class Engine:
    """Continues requests, a step at a time. One thread owns it."""

    plan_class: ClassVar[type[StepPlan]] = StepPlan

    def __init__(self, parts: Parts) -> None:
        self.info = parts.info
        self.empty_steps = parts.empty_steps
        self._parts = parts
        self.kv_cache = self._cache = parts.cache
        self._adapters = parts.adapters
        self._drafting = parts.drafting
        self._limits = parts.limits
        self._grammars = parts.grammars
        self._ledger = Ledger()
        self._queues = Queues()
        self._free_rows = list(reversed(range(parts.limits.rows)))
        self._counters = Counters()
        self._overlap: Overlap | None = None
        if parts.device_queue:
            self._overlap = Overlap(
                parts.device_queue, parts.builder, parts.runner, parts.pipeline, keeps=parts.drafting is not None
            )
        self._in_flight: InFlightStep | None = None  # launched, its tokens not known yet; only ever with overlap
        self._latest: Step | None = None
        self._ended: float | None = None  # when the last step was done, if there was work for the next
        self._launched = self._completed = 0  # numbers of steps
        self._failed: list[Output] = []  # of requests that could not be planned in this step
        self._leaving: list[Sequence] = []  # over, but part of a step in flight
        self._emitter = Emitter(parts.info.eos_token_ids)
        self._idle_plans = 0
        policy: Any = parts.policy
        self._idle_until: Callable[[], float | None] | None
        self._idle_until = policy.idle_until if hasattr(policy, "idle_until") else None
        self._resume: float | None = None  # while the policy waits: when to ask it again
        self.simulates_failures = True
        self.patient = True  # prompts wait where the policy says so, for others that may come
        self._policy_failed = False

    # --- requests come and go -----------------------------------------------------------------------------------

    @property
    def draft_tokens(self) -> int:
        """The most drafts that a step verifies for a sequence."""
        return 0 if self._drafting is None else self._drafting.most

    @property
    def busy(self) -> bool:
        return self._working or len(self._grammars) > 0 or self._adapters.changing

    @property
    def _working(self) -> bool:
        """Whether a step is of use now: not while all there is waits for its grammar."""
        return self._in_flight is not None or len(self._queues) > 0

    @property
    def pause(self) -> float | None:
        """Seconds for which a step is of no use unless a request comes or goes; None while there is none at all."""
        if not self.busy:
            return None
        if not self._working:
            return 0.0 if self._grammars.ready or self._adapters.reports else LONGEST_PAUSE
        if self._resume is None or self._in_flight is not None:
            return 0.0
        return min(max(0.0, self._resume - time.monotonic()), LONGEST_PAUSE)

    def add(self, request: Request | EncodeRequest) -> None:
        """Queues a request; RequestError when it can never be served."""
        if isinstance(request, EncodeRequest):
            raise RequestError(f"{self.info.name!r} generates text and encodes none", code="unsupported_model")
        if request.id in self._queues or request.id in self._grammars:
            raise RequestError(f"request id {request.id!r} is in use; ids must be unique")
        validate_request(request, self.info)
        validate_ids(request.prompt, self.info, "prompt")
        sequence = self._sequence(request, self._adapters.named(request.adapter))
        if sequence.adapter is not None:
            sequence.adapter.requests += 1
        if request.params.constraint is None:
            self._queues.wait(sequence)
        else:
            self._grammars.begin(sequence, request.params.constraint)

    @property
    def adapters(self) -> dict[str, str]:
        return self._adapters.sources

    def change_adapter(self, change: AdapterChange) -> None:
        """Begins to load, replace or unload one; RequestError if that cannot be. A later step says that it is done."""
        self._adapters.change(change)

    def rejected_changes(self) -> list[tuple[str, RequestError]]:
        """Which of those that were begun could not be made, and why; each of them once."""
        found, self._adapters.rejected = self._adapters.rejected, []
        return found

    def salt(self, request: Request) -> str:
        """What the cache finds the request's prompt under; RequestError for an adapter that there is not."""
        adapter = self._adapters.named(request.adapter)
        return salt_of(request, self._limits.prompt_regimes, self._adapters.slots > 0, adapter)

    def _sequence(self, request: Request, adapter: SlottedAdapter | None = None) -> Sequence:
        params = request.params
        wanted = self._limits.max_length if params.max_tokens is None else len(request.prompt) + params.max_tokens
        # A text under a grammar ends where that does, also when eos is ignored: nothing else may follow.
        eos = () if params.ignore_eos and params.constraint is None else self.info.eos_token_ids
        images = self._parts.images
        return Sequence(
            request,
            images=images.prompt(request) if images is not None and request.images else None,
            limit=min(self._limits.max_length, wanted),
            ends=frozenset((*eos, *params.stop_token_ids)),
            params=self._parts.read_params(params.fields),
            regimes=self._limits.prompt_regimes,
            adapter=adapter,
            adapters=self._adapters.slots > 0,
            ledger=self._ledger,
        )

    def abort(self, ids: Iterable[str]) -> None:
        """Forgets requests and frees what they hold; unknown ids are those that ended meanwhile."""
        for id in ids:
            sequence = self._queues.pop(id) or self._grammars.drop(id)
            if sequence is not None:
                self._leave(sequence)

    def reset_prefix_cache(self) -> int:
        """Forgets unused prefixes; returns the pages freed."""
        return self._cache.reset()

    def give_back(self) -> None:
        """Gives memory that the cache has no use for back to the system, while nothing runs."""
        give_back = getattr(self._cache, "give_back", None)  # optional, see Cache
        if give_back is not None:
            give_back()

    def reset_counters(self) -> None:
        """Starts counting anew, after a warm-up that no client asked for."""
        self._counters = Counters()

    def close(self) -> None:
        """Ends what runs beside the caller's thread; the engine cannot step any more. Harmless when done before."""
        self._grammars.close()
        self._adapters.close()
        if self._overlap is not None:
            self._overlap.device_queue.close()

    def serve_grammars(self, wake: Callable[[], None]) -> None:
        """Begins what the first constrained request would wait for; `wake` is called when one need not wait longer."""
        self._grammars.wake = self._adapters.wake = wake
        if self._parts.grammar_backend is not None:
            self._grammars.prepare(self._parts.grammar_backend)

    # --- one step -----------------------------------------------------------------------------------------------

    def step(self) -> list[Output]:
        """Runs the next batch and returns its outputs. A failure in it ends its own requests and no others."""
        outputs = self._admit_guided() if self._grammars.ready else []
        if self._adapters.reports:
            self._adapters.collect()
        while self._adapters.done:
            outputs.append(Output(id=self._adapters.done.pop(0), finish="stop"))
        if self._working or self.empty_steps:
            outputs += self._step_at_once() if self._overlap is None else self._step_ahead(self._overlap)
        if self._failed:
            outputs, self._failed = [*outputs, *self._failed], []
        if self._parts.check_when_idle and not self.busy:
            self.check()
        return outputs

    def _admit_guided(self) -> list[Output]:
        """Queues those whose grammar is ready, and ends those whose grammar failed."""
        outputs = []
        for sequence, error in self._grammars.collect():
            if error is None:
                self._queues.wait(sequence)
            else:
                self._leave(sequence)
                outputs.append(Output(id=sequence.id, finish="error", error=error))
        return outputs

    def next_outputs(self) -> list[Output]:
        """`step`, after the pause until there is something to do: for callers with nothing else to wait for."""
        if pause := self.pause:
            self._wait(pause)
        return self.step()

    def _wait(self, seconds: float) -> None:
        if len(self._grammars):
            self._grammars.wait(seconds)
        elif self._adapters.changing:
            self._adapters.wait(seconds)
        else:
            time.sleep(seconds)

    def _step_at_once(self) -> list[Output]:
        """A plan is run to its end, several steps of it where that is allowed."""
        plan, steps = self._plan()
        if not plan.entries:
            self._run_empty()
            return []
        outputs = self._run_step(plan.entries)
        for _ in range(steps - 1):
            left = {sequence: 1 for sequence in plan.entries if sequence.alive}
            if not left:
                break
            for sequence in left:
                sequence.room -= 1
            outputs = merged(outputs, self._run_step(left))
        return outputs

    def _run_step(self, entries: Mapping[Sequence, int]) -> list[Output]:
        begun = time.perf_counter()
        between = 0.0 if self._ended is None else min(begun - self._ended, LONGEST_BETWEEN)
        in_flight = self._new_step(entries)
        try:
            self._maybe_fail()
            inputs = self._parts.builder.build(in_flight.step)
            self._mark_launched(in_flight)
            runner, pipeline = self._parts.runner, self._parts.pipeline
            output = runner.run(inputs)
            in_flight.inputs, in_flight.output = inputs, output
            if in_flight.prompts is not None:
                in_flight.prompts.look(output.hidden, runner.logits)
            if output.logits is not None:
                pipeline.decide(output.logits, in_flight)
            seconds = time.perf_counter() - begun
        except Exception as error:
            in_flight.error = error
            return self._complete(in_flight)
        outputs = self._complete(in_flight)
        if self._drafting is not None:
            whole = between + time.perf_counter() - begun  # what more tokens a step make fewer of
            if not self._drafting.sleeps(in_flight):
                self._drafting.propose(in_flight, pipeline, self._parts.builder, whole)
            elif self._emitter.ended:
                self._drafting.end(in_flight, pipeline, self._parts.builder)
            seconds = time.perf_counter() - begun  # who decodes waits for the drafter, too
        self._learn(in_flight, seconds)
        self._ended = time.perf_counter() if self._working else None
        return outputs

    def _step_ahead(self, overlap: Overlap) -> list[Output]:
        """The next plan is launched before the step in flight completes: outputs come one call later.

        Unless drafts may follow that step: the next is launched when they are known.
        """
        completing = self._in_flight
        if completing is not None and completing.error is None:
            try:
                overlap.draw(completing)
            except Exception as error:
                completing.error = error
        outputs: list[Output] = []
        if completing is not None and self._drafting is not None and not self._drafting.sleeps(completing):
            outputs, self._in_flight = self._finish(overlap, completing, asks=True), None
        before, begun = self._in_flight, time.perf_counter()
        plan, _ = self._plan()
        self._in_flight = self._launch(overlap, plan.entries, before, begun) if plan.entries else None
        if before is not None:
            outputs = self._finish(overlap, before)
        elif completing is None and self._in_flight is None:
            self._run_empty()
        return outputs

    def _finish(self, overlap: Overlap, in_flight: InFlightStep, *, asks: bool = False) -> list[Output]:
        """Completes a step that was launched; `asks` for drafts then."""
        try:
            overlap.finish(in_flight)
        except Exception as error:
            in_flight.error = in_flight.error or error
        outputs = self._complete(in_flight)
        if in_flight.error is not None:
            return outputs
        begun = time.perf_counter()
        if self._drafting is not None:
            pipeline, builder = self._parts.pipeline, self._parts.builder
            if asks:
                self._drafting.propose(in_flight, pipeline, builder, overlap.seconds)
            else:
                self._drafting.end(in_flight, pipeline, builder)
        self._learn(in_flight, overlap.seconds + time.perf_counter() - begun)
        return outputs

    def _learn(self, in_flight: InFlightStep, seconds: float) -> None:
        """Notes what the step took."""
        step, cost = in_flight.step, self._parts.cost
        decodes = step.decodes or not in_flight.prompt_tokens
        if cost.wants(in_flight.number, draws=len(step.draws) > 0, decodes=decodes):
            cost.learn(Work.of(step.starts, step.stops), seconds)

    def _launch(
        self, overlap: Overlap, entries: Mapping[Sequence, int], before: InFlightStep | None, begun: float
    ) -> InFlightStep:
        in_flight = self._new_step(entries)
        try:
            self._maybe_fail()
            overlap.launch(in_flight, before, begun)
        except Exception as error:
            in_flight.error = error
        self._mark_launched(in_flight)
        return in_flight

    def _new_step(self, entries: Mapping[Sequence, int]) -> InFlightStep:
        self._counters.steps += 1
        self._launched += 1
        self._latest = Step(entries, self._ledger, self._latest, drafting=self._drafting is not None)
        return InFlightStep(self._latest, self._launched)

    def _mark_launched(self, in_flight: InFlightStep) -> None:
        ending = in_flight.launch()
        self._queues.run(in_flight.drawing)
        self._queues.end(ending)

    def _complete(self, in_flight: InFlightStep) -> list[Output]:
        """Notes what the step wrote and drew; lets go of the sequences that only waited for it."""
        self._completed = in_flight.number
        if in_flight.error is not None:
            log.error("a batch of %d sequences failed", in_flight.step.size, exc_info=in_flight.error)
            outputs = self._emitter.failures(in_flight)
        else:
            self._commit(in_flight)
            if in_flight.prompts is not None:
                in_flight.prompts.settle()
            outputs = self._emitter.outputs(in_flight)
            self._counters.generated_tokens += self._emitter.drawn
            self._counters.batch_sizes.count(in_flight.step.size)
            if in_flight.step.drafts is not None:
                self._counters.count_drafts(*in_flight.verified())
            self._counters.iteration_tokens.count(in_flight.prompt_tokens + self._emitter.drawn)
        for sequence in self._emitter.ended:
            self._queues.pop(sequence.id)
            self._leave(sequence)
        self._let_go()
        return outputs

    def _run_empty(self) -> None:
        """An empty step, where the model must run all the same. If it fails, nothing can go on."""
        if not self._parts.empty_steps:
            return
        inputs = self._parts.builder.build(Step({}, self._ledger))
        if self._overlap is None:
            self._parts.runner.run(inputs)
        else:
            self._overlap.device_queue.put(lambda: self._parts.runner.run(inputs)).result()

    # --- planning -----------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[StepPlan, int]:
        """Asks the policy who runs; when all it asked for lacked pages, the oldest gets them from the newest.

        Also returns how many steps of the plan are run in a row.
        """
        overlap = self._overlap if self._in_flight is not None else None
        settle = _nothing if overlap is None else overlap.device_queue.settle
        plan = self.plan_class(
            self._queues, self._cache, self._limits, self._free_rows, settle=settle, cost=self._parts.cost
        )
        self._ask_policy(plan)
        if self._resume is not None and not self.patient:
            self._resume = None
            for sequence in list(self._queues.prompts()):
                plan.add(sequence.view, sequence.length, whole=not self._limits.chunked_prefill)
        if self._in_flight is None:  # else it may give back pages when it completes: there is no hurry
            if not plan.entries and plan.lacked_pages:
                plan.relieve()
            if plan.entries or plan.failed or not self._working or self._resume is not None:
                self._idle_plans = 0
            else:
                self._count_idle_plan(plan)
        steps = plan.lengthen(self._parts.max_steps)
        self._settle(plan)
        return plan, steps

    def _ask_policy(self, plan: StepPlan) -> None:
        """A policy that fails keeps what it planned until then; requests are served all the same, if unfairly."""
        self._resume = None
        try:
            self._consult_policy(StepView(self._queues, self._cache, self._counters.steps), plan)
        except Exception:
            if not self._policy_failed:
                log.exception("scheduler %r failed; this is logged once", self._parts.policy_name)
            self._policy_failed = True
        self._queues.joined.clear()

    def _consult_policy(self, view: StepView, plan: StepPlan) -> None:
        self._parts.policy.plan(view, plan)
        if self._idle_until is not None and not plan.entries:
            until = self._idle_until()
            self._resume = until if until is not None and until > time.monotonic() else None

    def _count_idle_plan(self, plan: StepPlan) -> None:
        self._idle_plans += 1
        if self._idle_plans >= PATIENCE:
            log.error(
                "scheduler %r planned nothing %d times while work waits; the oldest runs now",
                self._parts.policy_name,
                self._idle_plans,
            )
            oldest = next(iter((*self._queues.running.values(), *self._queues.prompts())))
            plan.add(oldest.view, oldest.length, whole=not self._limits.chunked_prefill)

    def _settle(self, plan: StepPlan) -> None:
        """Puts the preempted back in line (the oldest of them first), ends those that failed, and notes what new rows
        found in the cache."""
        for sequence in plan.preempted:
            self._queues.wait_first(sequence)
            sequence.preemptions += 1
        self._counters.preemptions += len(plan.preempted)
        if plan.preempted and plan.lacked_pages:
            self._parts.on_lost_pages(len(plan.preempted), self._counters.preemptions)
        plan.preempted.clear()
        for sequence, error in plan.failed.items():
            self._queues.pop(sequence.id)
            self._leave(sequence)
            self._failed.append(Output(id=sequence.id, finish="error", error=error))
        self._queues.begin(plan.opened)
        for sequence in plan.opened:
            if not sequence.counted:
                sequence.counted, sequence.cached = True, sequence.computed
                sequence.scheduled = time.monotonic()
                sequence.queued = sequence.scheduled - sequence.arrived
                self._counters.prefix_queries += sequence.prompt_length
                self._counters.prefix_hits += sequence.computed
                self._counters.prompt_tokens += sequence.prompt_length

    def _maybe_fail(self) -> None:
        """`--sim-failure`: lets a share of the batches fail, so that clients can be tried against it."""
        if self.simulates_failures and self._parts.random.random() * 100 < self._parts.failure_percent:
            raise RuntimeError("simulated failure (--sim-failure)")

    # --- pages and rows -----------------------------------------------------------------------------------------

    def _commit(self, in_flight: InFlightStep) -> None:
        """Shares the pages that the step has filled; a token of a step too many is never part of one."""
        step, ledger, size = in_flight.step, self._ledger, self._limits.page_size
        for i in in_flight.complete().tolist():
            sequence, stop = step.sequences[i], int(in_flight.stops[i])
            self._cache.commit(sequence.row, self._written(sequence, in_flight, stop))
            ledger.commit_at[sequence.slot] = (stop // size + 1) * size
        if step.drafts is not None:
            self._take_back(in_flight)

    def _written(self, sequence: Sequence, in_flight: InFlightStep, stop: int) -> NDArray[np.int64]:
        """Its tokens as the cache knows them, with drafts that were accepted and are no outputs yet."""
        missing = 0 if in_flight.step.drafts is None else stop - len(sequence.tokens)
        return sequence.keys[:stop] if missing <= 0 else sequence.keyed(sequence.drafted(missing))

    def _take_back(self, in_flight: InFlightStep) -> None:
        """Gives back the pages that only rejected drafts have reached."""
        rejected = np.flatnonzero(in_flight.stops < in_flight.step.stops)
        for i in rejected.tolist():
            sequence, stop = in_flight.step.sequences[i], int(in_flight.stops[i])
            self._cache.truncate(sequence.row, stop)
            sequence.room = -stop % self._limits.page_size

    def _leave(self, sequence: Sequence) -> None:
        """It is over. What it holds is given back when no step that is on its way works on it."""
        self._ledger.alive[sequence.slot] = False
        self._leaving.append(sequence)
        self._let_go()

    def _let_go(self) -> None:
        if not self._leaving:
            return
        leaving, self._leaving = self._leaving, []
        for sequence in leaving:
            if self._ledger.launched[sequence.slot] > self._completed:
                self._leaving.append(sequence)
                continue
            if sequence.started:
                row = sequence.leave_row()
                self._cache.close(row)
                self._free_rows.append(row)
            self._ledger.close(sequence.slot)
            if sequence.adapter is not None:
                self._adapters.end(sequence.adapter)

    # --- statistics and checks -----------------------------------------------------------------------------------

    def stats(self) -> StepStats:
        counters, queues = self._counters, self._queues
        return StepStats(
            time=time.time(),
            running=len(queues.running) + len(queues.begun) + len(queues.ending),
            waiting=len(queues.waiting),
            cache=self._cache.sizes(),
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            preemptions=counters.preemptions,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            drafts=counters.drafts,
            draft_tokens=counters.draft_tokens,
            accepted_tokens=sum(counters.accepted_by_depth),
            accepted_by_depth=tuple(counters.accepted_by_depth),
            steps=counters.steps,
            deferred=len(self._grammars),
            page_size=self._limits.page_size,
            iteration_tokens=counters.iteration_tokens.distribution(),
            batch_sizes=counters.batch_sizes.distribution(),
            adapters=self._adapters.use(),
            adapter_slots=self._adapters.slots,
            adapters_loaded=len(self._adapters.sources),
        )

    def check(self) -> None:
        """Recounts pages and rows; AssertionError when one is lost."""
        self._cache.check()
        held = self._queues.rows_held() + sum(sequence.started for sequence in self._leaving)
        assert held + len(self._free_rows) == self._limits.rows, "a row is lost or held twice"
        if not self.busy:
            assert not self._leaving, "nothing is in flight, yet a sequence waits for it"
            sizes = self._cache.sizes()
            assert sizes.owned == sizes.held, "nothing runs, yet pages are owned"


def _nothing() -> None:
    pass
