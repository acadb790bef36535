"""The workers of a server, each with the whole model, as if they were one: their lives, requests and statistics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import MaxserveError, RequestError
from maxserve.core.runtime.observing import Observers

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.observer import StepStats
    from maxserve.core.interfaces.routes import EngineClient
    from maxserve.core.runtime.supervisor import Supervisor, Watcher

log = logging.getLogger("maxserve.supervisor")


class Fleet:
    """One supervisor for each replica. The event loop owns it, but for `spawn` and `kill`.

    A replica that dies takes its own requests with it and no others; the server serves while one is ready. Routes are
    given the `engine`, and observers what `together` makes of a replica's number and of what that says.
    """

    def __init__(self, supervisors: Sequence[Supervisor]) -> None:
        self._supervisors = supervisors
        self.clients = [supervisor.client for supervisor in supervisors]
        self.observers = Observers()
        self.engine: EngineClient = self.clients[0]
        self.together: Callable[[int, StepStats], StepStats] = lambda number, stats: stats
        self._infos: dict[int, ModelInfo] = {}
        self._opened = self._failed = False
        for number, client in enumerate(self.clients):
            client.on_stats = partial(self._on_stats, number)

    @property
    def ready(self) -> bool:
        return any(client.ready for client in self.clients)

    @property
    def open(self) -> int:
        """Requests that have not come to their end."""
        return sum(client.open for client in self.clients)

    @property
    def left_out(self) -> Mapping[str, RequestError]:
        """What requests for adapters are answered with of which workers died, by name."""
        return {name: error for client in self.clients for name, error in client.adapters.left_out.items()}

    def spawn(self) -> None:
        """Starts all workers; they load while the caller does other things."""
        for supervisor in self._supervisors:
            supervisor.spawn()

    def stop(self) -> None:
        """Ends the workers in good order; `run` returns when they are gone."""
        for supervisor in self._supervisors:
            supervisor.stop()

    def end_requests(self) -> None:
        """The server ends: so does every open request, with 503."""
        for client in self.clients:
            client.stop()

    def kill(self) -> None:
        """Ends the workers at once, whatever happens."""
        for supervisor in self._supervisors:
            supervisor.kill()

    async def run(self, watcher: Watcher) -> None:
        """Returns after `stop`. UsageError when no worker can ever start, EngineError when none serves any more."""
        lives = [
            asyncio.ensure_future(self._live(supervisor, Member(self, number, watcher)))
            for number, supervisor in enumerate(self._supervisors)
        ]
        try:
            await asyncio.gather(*lives)
        finally:
            self.stop()
            await asyncio.gather(*lives, return_exceptions=True)

    async def _live(self, supervisor: Supervisor, member: Member) -> None:
        try:
            await supervisor.run(member)
        except MaxserveError as error:
            if not self._opened or not self.ready:
                raise
            log.error("replica %d is given up, and the others serve on: %s", member.number, error)

    def _on_stats(self, number: int, stats: StepStats) -> None:
        try:
            stats = self.together(number, stats)
        except Exception:  # of a stranger's balancer: outputs are delivered all the same
            if not self._failed:
                log.exception("the balancer failed at on_replica_step; further failures there are not logged")
            self._failed = True
        self.observers.on_step(stats)

    def on_ready(self, number: int, info: ModelInfo, watcher: Watcher) -> None:
        """A replica is ready. The first time, the server is when all are."""
        self._infos[number] = info
        alone = sum(client.ready for client in self.clients) == 1
        if self._opened and not alone:
            log.info("replica %d is back", number)
        elif self._opened or len(self._infos) == len(self.clients):
            self._opened = True
            watcher.on_ready(self._info())

    def _info(self) -> ModelInfo:
        """What holds of all replicas that are ready."""
        infos = [info for number, info in sorted(self._infos.items()) if self.clients[number].ready]
        size, length = sum(info.max_batch_size for info in infos), min(info.max_length for info in infos)
        return infos[0] if len(self.clients) == 1 else replace(infos[0], max_batch_size=size, max_length=length)


class Member:
    """The Watcher of one replica, which tells that of the server what matters for all."""

    def __init__(self, fleet: Fleet, number: int, watcher: Watcher) -> None:
        self._fleet, self.number, self._watcher = fleet, number, watcher

    def on_progress(self, phase: str, fraction: float | None) -> None:
        if not self._fleet.ready:
            self._watcher.on_progress(phase, fraction)

    def on_ready(self, info: ModelInfo) -> None:
        self._fleet.on_ready(self.number, info, self._watcher)

    def on_death(self, message: str) -> None:
        if not self._fleet.ready:
            self._watcher.on_death(message)
