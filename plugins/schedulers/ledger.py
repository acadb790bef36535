"""The accounts of clients."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterable, Mapping, Set
from itertools import count

MOST_IDLE = 4096  # clients without a request whose service is remembered


class Ledger:
    """Service by client, in tokens divided by the client's weight: a virtual token counter (arXiv:2401.00588).

    Who comes, or comes back, starts at what the least served of the present ones had, so that none saves up credit by
    being away; who had more keeps it. Absent clients are forgotten once that makes no difference.
    """

    def __init__(self, weights: Mapping[str, float], default: float) -> None:
        self._weights = weights
        self._default = default
        self._served: dict[str, float] = {}
        self._line: list[tuple[float, int, str]] = []  # heap of who waits; what it says of service may be outdated
        self._waiting: set[str] = set()  # those in it
        self._present: set[str] = set()  # who ran, or was admitted, in the last step
        self._idle: dict[str, float] = {}
        self._idle_line: list[tuple[float, str]] = []  # heap of the same, with entries of who came back meanwhile
        self._tickets = count()
        self._has_waiting: Container[str] = frozenset()

    def __len__(self) -> int:
        """Clients it knows."""
        return len(self._served)

    def served(self, client: str) -> float:
        return self._served.get(client, 0.0)

    def begin(self, running: Set[str], joined: Iterable[str], waiting: Container[str]) -> None:
        """A step begins: these clients have requests that run, new ones that wait, and any that wait."""
        self._has_waiting = waiting
        for client in self._present - running - self._waiting:
            self._retire(client)
        self._present = set(running)
        floor = self._floor()
        self._forget(floor)
        for client in joined:
            if client not in self._waiting and client in waiting:
                self._enter(client, floor)

    def next(self) -> str | None:
        """The client who waits and was served least; of equals the one who has waited longest."""
        while self._line:
            known, ticket, client = self._line[0]
            if client not in self._has_waiting:
                self.leave()
            elif known != self._served[client]:
                heapq.heapreplace(self._line, (self._served[client], ticket, client))
            else:
                return client
        return None

    def leave(self) -> None:
        """The one who is `next` has nothing left that waits."""
        _, _, client = heapq.heappop(self._line)
        self._waiting.remove(client)
        self._present.add(client)

    def charge(self, client: str, tokens: int) -> None:
        weight = self._weights.get(client, self._default)
        self._served[client] = self._served.get(client, 0.0) + tokens / weight

    def _enter(self, client: str, floor: float) -> None:
        self._idle.pop(client, None)
        service = self._served.get(client, 0.0)
        if client not in self._present:
            service = max(service, floor)
        self._served[client] = service
        self._waiting.add(client)
        heapq.heappush(self._line, (service, next(self._tickets), client))

    def _floor(self) -> float:
        """What the least served of the present and waiting clients had."""
        least = [self._served.setdefault(client, 0.0) for client in self._present]
        first = self.next()
        return min(least if first is None else (*least, self._served[first]), default=0.0)

    def _retire(self, client: str) -> None:
        service = self._served.get(client)
        if service is not None:
            self._idle[client] = service
            heapq.heappush(self._idle_line, (service, client))

    def _forget(self, floor: float) -> None:
        """Drops the absent who would start at the floor anyway, and when there are too many those nearest to it."""
        line = self._idle_line
        while line and (line[0][0] <= floor or len(line) > MOST_IDLE):
            service, client = heapq.heappop(line)
            if self._idle.get(client) == service:
                del self._idle[client], self._served[client]
