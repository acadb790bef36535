"""The meter of a request: how long it took and what it cost, for the observers."""

from __future__ import annotations

import time
from collections.abc import Iterable

from maxserve.interfaces.observer import RequestStats, StatsObserver
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.runtime import Observers


class Meter:
    """Follows one HTTP request from its arrival to its end, over all of its choices."""

    def __init__(self, observers: Iterable[StatsObserver], route: str, id: str = "") -> None:
        self._observers = Observers.of(observers)
        self._route, self._id = route, id
        self._start, self._started = time.monotonic(), time.time()
        self._first: float | None = None
        self._latest: dict[int, tuple[float, TextDelta]] = {}
        self._gaps: list[float] = []
        self._finished = False
        self._queue: float | None = None
        self._prefill: float | None = None
        self.model = ""
        self.prompt_tokens = 0
        self.n = 1
        self.max_tokens: int | None = None

    def add(self, index: int, delta: TextDelta) -> None:
        """Notes a delta of choice `index`."""
        now = time.monotonic()
        if self._first is None:
            self._first = now - self._start
        if delta.scheduled:
            self._queue = max(self._queue or 0.0, delta.queued)
            self._prefill = max(self._prefill or 0.0, now - delta.scheduled)
        if index in self._latest:
            self._gaps.append(now - self._latest[index][0])
        self._latest[index] = (now, delta)

    @property
    def generated_tokens(self) -> int:
        return sum(delta.generated for _, delta in self._latest.values())

    @property
    def cached_tokens(self) -> int:
        """Of every prompt once: the first of its `n` choices tells what was cached before this request came."""
        return sum(delta.cached for index, (_, delta) in self._latest.items() if index % self.n == 0)

    @property
    def drafts(self) -> tuple[int, int]:
        """How many drafts became tokens of the answers, and how many did not."""
        latest = [delta for _, delta in self._latest.values()]
        return sum(delta.accepted for delta in latest), sum(delta.rejected for delta in latest)

    def finish(self, status: int) -> None:
        """Tells the observers, once."""
        if self._finished:
            return
        self._finished = True
        self._observers.on_request(self._stats(status))

    def _stats(self, status: int) -> RequestStats:
        reasons = [delta.finish for _, delta in self._latest.values() if delta.finish is not None]
        failed = "abort" if status == 499 else "error"
        total = time.monotonic() - self._start
        return RequestStats(
            id=self._id,
            model=self.model,
            started=self._started,
            first_token=None if self._first is None else self._started + self._first,
            finished=self._started + total,
            route=self._route,
            status=status,
            prompt_tokens=self.prompt_tokens,
            generated_tokens=self.generated_tokens,
            cached_tokens=self.cached_tokens,
            finish=reasons[0] if reasons and status < 400 else failed,
            queue_to_first_token=self._first,
            total=total,
            inter_token=tuple(self._gaps),
            n=self.n,
            max_tokens=self.max_tokens,
            queue=self._queue,
            prefill=self._prefill,
            decode=self._decode,
            preemptions=sum(delta.preemptions for _, delta in self._latest.values()),
        )

    @property
    def _decode(self) -> float | None:
        """From the first token to the last one; None where nothing was generated."""
        if self._prefill is None or self._first is None:
            return None
        return max(latest for latest, _ in self._latest.values()) - self._start - self._first
