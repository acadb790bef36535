"""The admission of prompts to a batch. The rules that the built-in policies share; the order is each policy's own."""

from __future__ import annotations

from maxserve.interfaces.scheduler import Limits, Plan, SequenceView, View

MARGIN = 0.85  # of the time that a mixed step may take: estimates are wrong by a tenth or so
FEWEST = 16  # tokens of a prompt in a mixed step, whatever they take: a prompt comes to its end
IN_A_ROW = 4  # batches of prompts while sequences decode; more cost answers their pace, fewer cost bursts theirs


class PromptTurns:
    """Whether prompts may go before those who decode: without an end to it, a flood of them would be served alone.

    Batches are counted and not their time, so that the same requests are always planned in the same way.
    """

    def __init__(self) -> None:
        self._in_a_row = 0

    @property
    def over(self) -> bool:
        return self._in_a_row >= IN_A_ROW

    def took(self, *, prompts: int, decoding: int) -> None:
        """So many prompts are in the batch that was planned, and so many sequences decode."""
        self._in_a_row = self._in_a_row + 1 if prompts and decoding else 0


class Admission:
    """Takes the prompts that one plan is offered, until rows, tokens or pages block. Only the last may be cut short.

    `room`: how many may join; `beside`: how many decode, in this batch or the next; `context`: tokens, cached ones
    included, of those who decode in this batch; `seconds`: how long that batch may take, if there is a bound.
    """

    def __init__(
        self,
        limits: Limits,
        view: View,
        plan: Plan,
        *,
        room: int,
        beside: int,
        context: int = 0,
        seconds: float | None = None,
    ) -> None:
        self._limits = limits
        self._view = view
        self._plan = plan
        self._room = room
        self._beside = beside
        self._context = context
        self._seconds = seconds
        self._pages = 0  # owned once the whole prompts of this batch are computed
        self._closed = False

    @property
    def open(self) -> bool:
        """Ask this before the queue is touched: looking at a prompt searches the prefix cache."""
        return self._room > 0 and self._plan.tokens_left > 0 and not self._closed

    def offer(self, sequence: SequenceView) -> int:
        """The tokens it gets. One that does not get all closes the admission: none overtakes it."""
        self._context += sequence.length
        self._pages = max(self._pages, self._view.cache.owned) + self._pages_of(sequence)
        if self._over_total() or self._over_watermark():
            self._closed = True
            return 0
        todo = sequence.todo
        granted = self._add(sequence, todo)
        self._room -= 1
        self._closed = granted < todo
        return granted

    def _add(self, sequence: SequenceView, todo: int) -> int:
        """The first prompt beside those who decode has a few tokens at least, and all of them if it must not be cut."""
        plan, whole, tokens = self._plan, not self._limits.chunked_prefill, todo
        if self._seconds is not None:
            fits = plan.most(sequence, self._seconds)
            if plan.size == self._beside:
                fits = todo if whole else max(fits, FEWEST)
            tokens = min(todo, fits) if fits >= todo or not whole else 0
        return plan.add(sequence, tokens, whole=whole)

    def _over_total(self) -> bool:
        total = self._limits.max_batch_total_tokens
        return total is not None and self._context > total

    def _over_watermark(self) -> bool:
        """No prompt is held back while nothing runs."""
        crowded = self._beside > 0 or self._plan.size > 0
        return crowded and self._pages > self._limits.watermark * self._view.cache.total

    def _pages_of(self, sequence: SequenceView) -> int:
        """Pages it still needs; the prefix that is cached or computed has its own."""
        limits = self._limits
        return limits.pages_of(sequence.length) - limits.pages_of(sequence.length - sequence.todo)
