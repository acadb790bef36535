"""Who runs next: prompts, or those who decode?"""

from __future__ import annotations

from collections.abc import Sequence

from maxserve.core.interfaces import Plan, SchedulerContext, SequenceView, View


class Continuous:
    """Prompts first, in order of arrival, until rows, tokens or pages block; else one token for everyone who runs.

    With in-flight batching, everyone who runs gets a token and prompts fill the rest of the same batch.
    """

    def __init__(self, context: SchedulerContext) -> None:
        self._limits = context.limits

    def plan(self, view: View, plan: Plan) -> None:
        running = view.running
        if self._limits.in_flight_batching:
            for sequence in running:
                plan.add(sequence, 1)
            self._prefill(view, plan, plan.size, self._context(running))
            return
        self._prefill(view, plan, len(running), 0)
        if not plan.size:
            for sequence in running:
                plan.add(sequence, 1)

    def _prefill(self, view: View, plan: Plan, running: int, context: int) -> None:
        """Admits prompts while they fit beside `running` sequences; only the last may be cut short.

        `context` counts the tokens, cached ones included, of the sequences that decode in this batch.
        """
        limits = self._limits
        room = limits.max_batch_size - running
        if room < 1 or plan.tokens_left < 1:
            return  # before the queue is touched: looking at a prompt searches the prefix cache
        pages = 0
        for sequence in view.waiting:
            context += sequence.length
            pages = max(pages, view.cache.owned) + self._pages(sequence)
            if self._over_total(context) or ((running or plan.size) and self._over_watermark(pages, view)):
                return
            todo = sequence.todo
            granted = plan.add(sequence, todo, whole=not limits.chunked_prefill)
            room -= 1
            if granted < todo or room < 1 or plan.tokens_left < 1:
                return

    def _context(self, running: Sequence[SequenceView]) -> int:
        return sum(sequence.length for sequence in running) if self._limits.max_batch_total_tokens else 0

    def _over_total(self, context: int) -> bool:
        total = self._limits.max_batch_total_tokens
        return total is not None and context > total

    def _over_watermark(self, pages: int, view: View) -> bool:
        return pages > self._limits.watermark * view.cache.total

    def _pages(self, sequence: SequenceView) -> int:
        """Pages it still needs; the prefix that is cached or computed has its own."""
        size = self._limits.page_size
        return -(-sequence.length // size) - -(-(sequence.length - sequence.todo) // size)
