"""The plan of the next step, and what a policy may look at to make it.

A policy fills a StepPlan through `add` and `preempt`; budgets, rows and pages are enforced here, so that the worst a
policy can do is be unfair. Rows and pages are taken at once; the queues change only when the plan is done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from typing import TYPE_CHECKING, Any

import numpy as np

from maxserve.core.engine.queues import Queues
from maxserve.core.engine.sequence import SeenSequence, Sequence
from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.errors import cause
from maxserve.core.interfaces.scheduler import Limits, SequenceView, StepCost, Work

if TYPE_CHECKING:
    from maxserve.core.interfaces.adapter import SlottedAdapter
    from maxserve.core.interfaces.cache import Cache

log = logging.getLogger("maxserve.engine")

PATIENCE = 2.0  # seconds after which a request that waits for a slot goes before later ones that have theirs
MOST_HELD_BACK = 64  # requests that wait for a prefix, in one plan; looking at a request costs a search of the cache


class StepView:
    """What a policy may look at."""

    def __init__(self, queues: Queues, cache: Cache, step: int) -> None:
        self._queues = queues
        self._cache = cache
        self._step = step
        self._pending: Callable[[Any, str, int], int] | None = getattr(cache, "pending", None)  # optional, see Cache
        self._held_back = 0

    @property
    def running(self) -> SequenceOf[SequenceView]:
        return self._queues.running_views

    @property
    def waiting(self) -> Iterator[SequenceView]:
        """Begun prompts, then the others by priority: the preempted, then as they came.

        The cache is searched as this is read. Those of which half is being computed for others are left out meanwhile.
        """
        return self._looked_at(self._queues.prompts())

    @property
    def waiting_users(self) -> Collection[str]:
        return self._queues.by_user.keys()

    def waiting_of(self, user: str) -> Iterator[SequenceView]:
        """Those of `waiting` that are this user's."""
        return self._looked_at(self._queues.prompts_of(user))

    def _looked_at(self, sequences: Iterable[Sequence]) -> Iterator[SequenceView]:
        blocked: Sequence | None = None  # the first that waits for a slot for its adapter
        for sequence in sequences:
            if sequence.adapter is not None and not sequence.started and not self._has_slot(sequence, blocked):
                blocked = blocked or sequence
                continue
            if not sequence.started and sequence.peeked[0] != self._step:
                hits = 0 if sequence.wants_scores else self._cache.peek(sequence.keys, sequence.salt)
                sequence.peeked = (self._step, hits)
            if self._pending is not None and not sequence.started and not sequence.wants_scores:
                if self._held_back == MOST_HELD_BACK:
                    return
                found = sequence.peeked[1]
                gain = self._pending(sequence.keys, sequence.salt, found) - found
                if gain > 0 and 2 * gain >= sequence.length - found:  # half of what it lacks is being computed
                    self._held_back += 1
                    continue
            yield sequence.view

    @staticmethod
    def _has_slot(sequence: Sequence, blocked: Sequence | None) -> bool:
        """Whether one with an adapter can begin, and does not keep a slot from one that has waited long for it."""
        assert sequence.adapter is not None, "it has an adapter"
        if blocked is not None and time.monotonic() - blocked.arrived > PATIENCE:
            return False
        return sequence.adapter.pool.has_room(sequence.adapter)

    @property
    def joined(self) -> SequenceOf[SequenceView]:
        """Who began to wait since the last plan; some may be gone again."""
        return [sequence.view for sequence in self._queues.joined]

    @property
    def waiting_count(self) -> int:
        return len(self._queues.waiting) + len(self._queues.begun)

    @property
    def cache(self) -> CacheSizes:
        return self._cache.sizes()

    @property
    def now(self) -> float:
        return time.monotonic()


def _nothing() -> None:
    pass


class StepPlan:
    """The sequences of the next step and how many tokens each computes. `free_rows` is the engine's own list.

    `settle` waits until no step is on its way any more; it is called before a row is taken away or opened,
    so that no pages change hands while a step still works on them.
    """

    def __init__(
        self,
        queues: Queues,
        cache: Cache,
        limits: Limits,
        free_rows: list[int],
        *,
        cost: StepCost,
        settle: Callable[[], None] = _nothing,
    ) -> None:
        self._queues = queues
        self._cache = cache
        self._tag: Callable[[int, str, bool], None] | None = getattr(cache, "tag", None)  # optional, see Cache
        self._page_size = limits.page_size
        self._free_rows = free_rows
        self._settle = settle
        self._cost = cost
        self._work = Work()  # of those who were planned when it was last asked for, and how many they were
        self._counted = 0
        self._unlimited = not limits.chunked_prefill
        self._most = limits.max_batch_size
        self.tokens_left = limits.max_batch_input_tokens
        self._tokens_for_drafts = self.tokens_left - len(queues.running)
        self.entries: dict[Sequence, int] = {}
        self.opened: list[Sequence] = []  # those of the entries that got their row in this plan
        self.preempted: list[Sequence] = []
        self.failed: dict[Sequence, str] = {}  # whose adapter could not be placed, and why
        self.lacked_pages = False  # a sequence was refused, or lost what it had, because no page could be had

    @property
    def size(self) -> int:
        return len(self.entries)

    @property
    def rows_left(self) -> int:
        return len(self._free_rows)

    @property
    def seconds(self) -> float:
        return self._cost.seconds(self._planned()) if self.entries else 0.0

    def most(self, sequence: SequenceView, seconds: float) -> int:
        wanted = self._own(sequence)
        return self._cost.most(self._planned(), wanted.length - sequence.todo, seconds)

    def _planned(self) -> Work:
        """What all that is planned so far computes."""
        if self._counted < len(self.entries):
            added = list(self.entries.items())[self._counted :]
            starts = np.array([sequence.computed for sequence, _ in added], dtype=np.int64)
            counts = np.array([tokens for _, tokens in added], dtype=np.int64)
            self._work += Work.of(starts, starts + counts)
            self._counted = len(self.entries)
        return self._work

    def add(self, sequence: SequenceView, tokens: int, *, whole: bool = False) -> int:
        wanted = self._own(sequence)
        if wanted in self.entries or tokens < 1 or len(self.entries) >= self._most:
            return 0
        if wanted.room and self.tokens_left:  # it decodes and has the page for it
            wanted.room -= 1
            self.tokens_left -= 1
            self.entries[wanted] = 1
            return 1
        if wanted in self.preempted or (not self.tokens_left and self.entries):
            return 0
        return self._add(wanted, tokens, whole)

    def add_each(self, sequences: Iterable[SequenceView], tokens: int) -> None:
        # The first lines of `add`, here for as many sequences as decode: half of a step's planning is calls.
        if tokens < 1:
            return
        # As long as each takes one token, `both` stays what it is: tokens that are left, and entries.
        entries, both = self.entries, self.tokens_left + len(self.entries)
        most = min(both, self._most)
        for view in sequences:
            wanted = view._sequence if type(view) is SeenSequence else self._own(view)
            if wanted.room and len(entries) < most and wanted not in entries:
                wanted.room -= 1
                entries[wanted] = 1
                continue
            self.tokens_left = both - len(entries)
            self.add(view, tokens)
            both = self.tokens_left + len(entries)
            most = min(both, self._most)
        self.tokens_left = both - len(entries)

    def _add(self, wanted: Sequence, tokens: int, whole: bool) -> int:
        fresh = not wanted.started
        if fresh and not self._open(wanted):
            return 0
        computed = wanted.computed
        todo = wanted.length - computed
        granted = todo if todo <= tokens and todo <= self.tokens_left else self._clip(todo, tokens, whole)
        if granted < todo and wanted.images is not None:
            granted = wanted.images.uncut(computed, granted)
        if granted and self._have_pages(wanted, computed + granted):
            if wanted.drafts:
                granted += self._keep_drafts(wanted, computed + granted, self.tokens_left - granted)
            self._grant(wanted, granted, computed + granted)
            if fresh:
                self.opened.append(wanted)
            return granted
        self.lacked_pages |= granted > 0
        if fresh and wanted.started:
            self._close(wanted)
        return 0

    def _keep_drafts(self, wanted: Sequence, length: int, tokens: int) -> int:
        """Cuts its drafts to what the budget and the pages have left, and returns how many it keeps.

        No other one loses a page for drafts, or its own token to them.
        """
        count = min(len(wanted.drafts), max(0, min(tokens, self._tokens_for_drafts)))
        if not self._cache.reserve(wanted.row, length + count):
            count = min(count, -length % self._page_size)
        if count < len(wanted.drafts):
            wanted.cut_drafts(count)
        self._tokens_for_drafts -= count
        return count

    def _grant(self, wanted: Sequence, granted: int, length: int) -> None:
        self.entries[wanted] = granted
        self.tokens_left = self.tokens_left - granted if granted < self.tokens_left else 0
        if wanted.id in self._queues.running:
            wanted.room = -length % self._page_size

    def preempt(self, sequence: SequenceView) -> None:
        victim = self._own(sequence)
        if victim.started and victim not in self.entries and victim.id not in self._queues.ending:
            self._take_back(victim)

    def relieve(self) -> None:
        """When pages are so spread that no sequence can go on: takes them from the newest until the oldest can.

        The oldest alone is planned: a policy could hand the freed pages out again the same way for ever.
        """
        holders = list(self._queues.holders())
        if not holders:
            return
        oldest = holders.pop()
        while not self.add(oldest.view, self.tokens_left) and holders:
            self._take_back(holders.pop(0))

    def lengthen(self, most: int) -> int:
        """How many steps the plan can run in a row, up to `most`, without a look in between.

        More than one only when all of it decodes. Pages for all the steps are had first; where they are short, the
        steps are fewer. No sequence is preempted for it.
        """
        if most < 2 or self.preempted or any(s.id not in self._queues.running for s in self.entries):
            return 1
        needs = {sequence: min(most, sequence.limit - sequence.length) for sequence in self.entries}
        steps = max(needs.values(), default=1)
        for sequence, need in needs.items():
            if min(need, steps) > sequence.room + 1 and not self._stretch(sequence, min(need, steps) - 1):
                steps = sequence.room + 1
        return steps

    def _stretch(self, sequence: Sequence, room: int) -> bool:
        length = sequence.computed + 1 + room
        if not self._cache.reserve(sequence.row, length):
            return False
        sequence.room = room + -length % self._page_size
        return True

    def _own(self, view: SequenceView) -> Sequence:
        if type(view) is not SeenSequence:
            raise TypeError(f"a plan takes the sequences of its view, got {type(view).__name__}")
        return view._sequence

    def _clip(self, todo: int, tokens: int, whole: bool) -> int:
        if not whole:
            return min(tokens, todo, self.tokens_left)
        fits = todo <= self.tokens_left or (self._unlimited and self.tokens_left > 0)
        return todo if fits or not self.entries else 0

    def _open(self, sequence: Sequence) -> bool:
        if not self._free_rows:
            return False
        if sequence.adapter is not None and not self._enter(sequence, sequence.adapter):
            return False
        self._settle()
        row = self._free_rows.pop()
        # Of a single token no cache finds a prefix: all rows are computed, and shared with others afterwards.
        known = sequence.keys[:1] if sequence.wants_scores else sequence.keys
        sequence.take_row(row, self._cache.open(row, known, sequence.salt), self._page_size)
        if self._tag is not None:
            self._tag(row, sequence.request.user, sequence.request.pinned)
        return True

    def _enter(self, sequence: Sequence, adapter: SlottedAdapter) -> bool:
        try:
            return sequence not in self.failed and adapter.pool.enter(adapter)
        except Exception as error:
            log.exception("adapter %s could not be placed", adapter.name)
            self.failed[sequence] = f"the adapter {adapter.name!r} could not be placed: {cause(error)}"
            return False

    def _close(self, sequence: Sequence) -> None:
        self._settle()
        row = sequence.leave_row()
        self._cache.close(row)
        self._free_rows.append(row)

    def _have_pages(self, sequence: Sequence, length: int) -> bool:
        """Reserves pages; one who decodes may take them from those who came after it, a prompt may not."""
        while not self._cache.reserve(sequence.row, length):
            if sequence.id not in self._queues.running:
                return False
            victim = next((s for s in self._queues.holders() if s not in self.entries), sequence)
            self._take_back(victim)
            self.lacked_pages = True
            if victim is sequence:
                return False
        return True

    def _take_back(self, victim: Sequence) -> None:
        self._close(victim)
        self.preempted.append(victim)
