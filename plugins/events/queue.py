"""Events between the engine's thread, which has no time for them, and the thread that publishes them."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

from maxserve.interfaces.cache import CacheGroup

log = logging.getLogger("maxserve.events")

STORED: Final = "stored"
REMOVED: Final = "removed"

# kind, tier, group, page, the page before, its tokens
Event: TypeAlias = tuple[str, str, CacheGroup | None, int, int | None, bytes]

CLEARED: Final[Event] = ("cleared", "", None, 0, None, b"")


class EventQueue:
    """The CacheListener that keeps events until they are taken, and calls `wake` when there are some again.

    Pages under a salt are left out: other requests do not find them, so a router must not count on them. The first
    event has routers forget what an earlier process had. When more than `limit` events wait, they are thrown away, and
    routers are told to forget all: one that knows too little routes worse, one that knows what is not true wrong.
    """

    def __init__(self, limit: int, wake: Callable[[], None]) -> None:
        self._events = deque([CLEARED])
        self._limit = limit
        self._wake = wake
        self._asleep = True  # no events are taken until `wake` is called
        self.closed = False

    def stored(
        self, tier: str, page: int, parent: int | None, tokens: bytes, salt: str, group: CacheGroup | None
    ) -> None:
        if not salt:
            self._put((STORED, tier, group, page, parent, tokens))

    def removed(self, tier: str, page: int, salt: str, group: CacheGroup | None) -> None:
        if not salt:
            self._put((REMOVED, tier, group, page, None, b""))

    def cleared(self) -> None:
        self._put(CLEARED)

    def take(self) -> list[Event]:
        """All that wait."""
        self._asleep = True  # before the first is taken: one that comes now wakes again
        taken: list[Event] = []
        while self._events:
            taken.append(self._events.popleft())
        return taken

    def _put(self, event: Event) -> None:
        if self.closed:
            return
        if len(self._events) >= self._limit:
            log.warning(
                "more than %d events of the cache wait to be published: routers are told to forget all of it",
                self._limit,
            )
            self._events.clear()
            self._events.append(CLEARED)
        self._events.append(event)
        if self._asleep:
            self._asleep = False
            self._wake()
