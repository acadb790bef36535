"""The observers of a server, whose failures harm nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maxserve.core.interfaces.observer import RequestStats, ResponseStats, StatsObserver, StepStats, SupportsResponses

log = logging.getLogger("maxserve.server")


class Observers:
    """Tells each observer of steps and requests; what one raises is logged once for each of its methods.

    Answers are the clients': a broken observer neither takes one away nor fills the log. It receives what comes
    later all the same, since one odd request need not be the end of all statistics.
    """

    def __init__(self, observers: Iterable[StatsObserver] = ()) -> None:
        self._observers = tuple(observers)
        self._of_responses = [each for each in self._observers if isinstance(each, SupportsResponses)]
        self._failed: set[tuple[int, str]] = set()

    @classmethod
    def of(cls, observers: Iterable[StatsObserver]) -> Observers:
        """Returns `observers` themselves where they are such already, so that what failed stays known."""
        return observers if isinstance(observers, cls) else cls(observers)

    def __iter__(self) -> Iterator[StatsObserver]:
        return iter(self._observers)

    def __len__(self) -> int:
        return len(self._observers)

    def on_step(self, stats: StepStats) -> None:
        for observer in self._observers:
            self._notify(observer, observer.on_step, stats)

    def on_request(self, stats: RequestStats) -> None:
        for observer in self._observers:
            self._notify(observer, observer.on_request, stats)

    def on_response(self, stats: ResponseStats) -> None:
        for observer in self._of_responses:
            self._notify(observer, observer.on_response, stats)

    def _notify(self, observer: object, method: Callable[[Any], None], stats: object) -> None:
        try:
            method(stats)
        except Exception:
            key = (id(observer), method.__name__)
            if key not in self._failed:
                name = f"{type(observer).__module__}.{type(observer).__qualname__}"
                log.exception("observer %s failed at %s; further failures there are not logged", name, key[1])
            self._failed.add(key)
