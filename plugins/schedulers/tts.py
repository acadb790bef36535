"""Scheduler that gives prompts and answers turns by the number of those who decode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.component import Context
from maxserve.interfaces.config import Option
from maxserve.interfaces.scheduler import Plan, SchedulerContext, SequenceView, View
from maxserve.plugins.schedulers.admission import Admission, PromptTurns


@dataclass(frozen=True, slots=True)
class Config:
    """When prompts are run, and when those who generate are."""

    max_queue_size_tg: Annotated[
        int | None,
        Option(used_by="scheduler"),
        Field(
            description="Scheduler tts: most requests that generate or are about to; unset, the batch size.",
            ge=1,
        ),
    ] = None
    min_batch_size_tg: Annotated[
        int | None,
        Option(used_by="scheduler"),
        Field(
            description="Scheduler tts: run prompts first until this many requests generate; unset, "
            "--max-queue-size-tg.",
            ge=1,
        ),
    ] = None
    ce_delay_ms: Annotated[
        float,
        Option(used_by="scheduler"),
        Field(
            description="Scheduler tts: milliseconds for which prompts wait for others to be run with; those who "
            "generate go on meanwhile.",
            ge=0,
            allow_inf_nan=False,
        ),
    ] = 0.0
    enable_prioritize_first_decode: Annotated[
        bool,
        Option(used_by="scheduler"),
        Field(description="Scheduler tts: run the requests of each batch of prompts alone once more right after it."),
    ] = False


def max_started(context: Context) -> int | None:
    """How many requests hold pages at once."""
    return context.config(Config).max_queue_size_tg


class TakingTurns:
    """Prompts first until `min_batch_size_tg` sequences decode, then one token for each until fewer do.

    Where so many never decode, as prompts that ask for one token come and go, there is an end to a turn all the same.
    A cycle is a turn of prompts and the turn of answers after it. At its start prompts wait for `ce_delay_ms`,
    so that more of them are computed together; those who decode go on meanwhile. Prompts are never cut, and no page is
    kept back from them.
    """

    def __init__(self, context: SchedulerContext) -> None:
        config = context.config(Config)
        self._limits = replace(context.limits, watermark=1.0)
        self._queue_size = config.max_queue_size_tg or self._limits.max_batch_size
        self._enough = config.min_batch_size_tg or self._queue_size
        self._delay = config.ce_delay_ms / 1000
        self._first_decode = config.enable_prioritize_first_decode
        self._turns = PromptTurns()
        self._fresh: frozenset[str] = frozenset()  # the prompts of the last batch, who decode next and alone
        self._taking = False  # prompts have been taken in this cycle already
        self._gathering: float | None = None  # since when prompts wait for more of them
        self._until: float | None = None  # when they will have waited long enough

    def plan(self, view: View, plan: Plan) -> None:
        self._until = None
        running = view.running
        fresh, self._fresh = self._fresh, frozenset[str]()
        if fresh:
            self._decode((s for s in running if s.id in fresh), plan)
        if not plan.size:
            if len(running) < self._enough and not self._turns.over and self._may_take(view):
                self._prefill(view, plan, len(running))
            self._turns.took(prompts=plan.size, decoding=len(running))
        if not plan.size:
            self._decode(running[: self._limits.max_batch_size], plan)
            self._taking = False

    def idle_until(self) -> float | None:
        """When prompts that wait for others will have waited long enough."""
        return self._until

    def _may_take(self, view: View) -> bool:
        """Whether prompts wait, and have waited for others; the clock starts anew when those who waited are gone."""
        first = next(iter(view.waiting), None) if view.waiting_count else None
        if first is None or self._taking or not self._delay:
            return first is not None
        if self._gathering is None:
            self._gathering = view.now
        ready = max(self._gathering, view.now - first.waited) + self._delay
        if view.now < ready:
            self._until = ready
        return self._until is None

    def _prefill(self, view: View, plan: Plan, running: int) -> None:
        room = min(self._limits.max_batch_size, self._queue_size - running)
        admission = Admission(self._limits, view, plan, room=room, beside=running)
        ids = []
        for sequence in view.waiting if admission.open else ():
            if admission.offer(sequence):
                ids.append(sequence.id)
            if not admission.open:
                break
        if ids:
            self._taking, self._gathering = True, None
            self._fresh = frozenset(ids) if self._first_decode else frozenset()

    def _decode(self, sequences: Iterable[SequenceView], plan: Plan) -> None:
        plan.add_each(sequences, 1)
