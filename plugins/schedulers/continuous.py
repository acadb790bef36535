"""The scheduler `continuous`: continuous batching."""

from __future__ import annotations

from maxserve.interfaces.scheduler import Limits, Plan, SchedulerContext, View
from maxserve.plugins.schedulers.admission import MARGIN, Admission, PromptTurns


class Continuous:
    """A token for each that runs, and prompts in the same batch until rows, tokens, pages or time block.

    Without in-flight batching, prompts go first; where they never end, those who run get their token after every few
    batches of them. Prompts come in order of arrival; a subclass may have another order.
    """

    def __init__(self, context: SchedulerContext) -> None:
        self._limits = context.limits
        self._turns = PromptTurns()

    def plan(self, view: View, plan: Plan) -> None:
        running = view.running
        if self._limits.in_flight_batching:
            plan.add_each(running, 1)
            # Unless pages are so short that a sequence lost its own: no time for prompts then.
            if plan.size == len(running) and view.waiting_count:
                context = sum(s.length for s in running) if self._limits.max_batch_total_tokens else 0
                self._prefill(view, plan, plan.size, context, _seconds(self._limits, plan))
            return
        if view.waiting_count and not self._turns.over:
            self._prefill(view, plan, len(running), 0)
        self._turns.took(prompts=plan.size, decoding=len(running))
        if not plan.size:
            plan.add_each(running, 1)

    def _prefill(self, view: View, plan: Plan, running: int, context: int, seconds: float | None = None) -> None:
        room = self._limits.max_batch_size - running
        admission = Admission(self._limits, view, plan, room=room, beside=running, context=context, seconds=seconds)
        if admission.open:
            self._offer(view, admission)

    def _offer(self, view: View, admission: Admission) -> None:
        for sequence in view.waiting:
            admission.offer(sequence)
            if not admission.open:
                return


def _seconds(limits: Limits, plan: Plan) -> float | None:
    """How long a batch with those who decode may take; where they alone take as long, prompts have as much time again.

    None where no sequence decodes that would wait for prompts.
    """
    if limits.mixed_step_seconds is None or not plan.size:
        return None
    return max(MARGIN * limits.mixed_step_seconds, 2 * plan.seconds)
