"""The EngineClient of several replicas."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from maxserve.interfaces.errors import MaxserveError, RequestError, WorkerDied
from maxserve.plugins.replicas.least_cost import LeastCost, Ticket
from maxserve.plugins.replicas.options import LeastCostOptions
from maxserve.plugins.replicas.pin import pinned
from maxserve.plugins.replicas.stats import ReplicaStats

if TYPE_CHECKING:
    from maxserve.interfaces.balancer import BalancerContext
    from maxserve.interfaces.observer import StepStats
    from maxserve.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
    from maxserve.interfaces.routes import EngineClient

log = logging.getLogger("maxserve.server")


class Chooses(Protocol):
    """Which replica serves a request, as LeastCost says it; `among` are those that can."""

    def choose(self, prompt: Sequence[int], root: bytes, among: Sequence[int]) -> Ticket: ...
    def choose_for(self, tokens: int, among: Sequence[int]) -> Ticket: ...
    def began(self, ticket: Ticket) -> None: ...
    def ended(self, ticket: Ticket) -> None: ...
    def resize(self, number: int, page_size: int, pages: int) -> None: ...
    def forget(self, number: int) -> None: ...


class Replicas:
    """Sends each request to the replica that the policy chooses, and changes of adapters to all.

    A request whose replica dies before it gave anything goes to another one.
    """

    def __init__(self, context: BalancerContext, policy: Chooses | None = None) -> None:
        self._replicas = context.replicas
        each = context.config(LeastCostOptions).tokens_per_request
        self._policy: Chooses = policy or LeastCost(len(context.replicas), each)
        self._steps = [0] * len(context.replicas)
        self._stats = ReplicaStats(len(context.replicas))

    @property
    def ready(self) -> bool:
        return any(replica.ready for replica in self._replicas)

    @property
    def capacity(self) -> int | None:
        found = [replica.capacity for replica in self._replicas]
        return None if None in found else sum(each for each in found if each is not None)

    @property
    def open(self) -> int:
        return sum(replica.open for replica in self._replicas)

    def generate(self, request: Request) -> AsyncGenerator[Output, None]:
        root = _root(request)

        def choose(among: list[int]) -> Ticket:
            return self._policy.choose(request.prompt, root, among)

        return self._answers(choose, 1, lambda replica: replica.generate(request))

    def encode(self, request: EncodeRequest) -> AsyncGenerator[Encoded, None]:
        tokens = sum(map(len, request.texts))

        def choose(among: list[int]) -> Ticket:
            return self._policy.choose_for(tokens, among)

        return self._answers(choose, len(request.texts), lambda replica: replica.encode(request))

    async def _answers(
        self,
        choose: Callable[[list[int]], Ticket],
        weight: int,
        ask: Callable[[EngineClient], AsyncGenerator[Any, None]],
    ) -> AsyncGenerator[Any, None]:
        died: set[int] = set()
        while True:
            ticket = choose(self._usable(weight, died))
            begun = False
            try:
                async with aclosing(ask(self._replicas[ticket.replica])) as outputs:
                    async for output in outputs:
                        if not begun:
                            self._policy.began(ticket)
                            begun = True
                        yield output
                return
            except WorkerDied:
                died.add(ticket.replica)
                if begun or pinned(len(self._replicas)) is not None or not self._others(died):
                    raise
                log.info("a request of replica %d, which died, goes to another one", ticket.replica)
            finally:
                self._policy.ended(ticket)

    def _others(self, died: Iterable[int]) -> list[int]:
        return [n for n, replica in enumerate(self._replicas) if replica.ready and n not in died]

    def _usable(self, weight: int, died: Iterable[int]) -> list[int]:
        """Those that are ready and take the request. If none does, all that are ready, which say what is wrong."""
        wanted = pinned(len(self._replicas))
        if wanted is not None:
            return [wanted]
        ready = self._others(died) or list(range(len(self._replicas)))
        roomy = [n for n in ready if _has_room(self._replicas[n], weight)]
        return roomy or ready

    async def change_adapter(self, change: AdapterChange) -> None:
        """On all replicas, or on none: where one cannot make it, those before have it undone."""
        if not all(replica.ready for replica in self._replicas):
            raise RequestError(
                "a replica of the model is being started anew, and adapters are changed on all at once; try again",
                code="service_unavailable",
                status=503,
            )
        made: list[EngineClient] = []
        for replica in self._replicas:
            try:
                await replica.change_adapter(change)
            except MaxserveError:
                await self._undo(change, made)
                raise
            made.append(replica)

    async def _undo(self, change: AdapterChange, made: Iterable[EngineClient]) -> None:
        for replica in made:
            if change.action == "unload" or change.replace:
                log.error("the adapter %s is not the same on all replicas now; load it again", change.name)
                continue
            await replica.change_adapter(replace(change, action="unload", source="", wait=False))

    async def reset_prefix_cache(self) -> None:
        for number, replica in enumerate(self._replicas):
            if replica.ready:
                await replica.reset_prefix_cache()
                self._policy.forget(number)

    def on_replica_step(self, replica: int, stats: StepStats) -> StepStats:
        """Another worker has another cache, of which nothing is used yet."""
        if stats.steps < self._steps[replica]:
            self._policy.forget(replica)
        self._steps[replica] = stats.steps
        self._policy.resize(replica, stats.page_size, stats.cache.total)
        return self._stats.add(replica, stats)


def _has_room(replica: EngineClient, weight: int) -> bool:
    return replica.capacity is None or replica.open + weight <= replica.capacity


def _root(request: Request) -> bytes:
    """What keeps prefixes apart besides their tokens."""
    images = [(image.start, image.digest) for image in request.images]
    return blake2b(msgspec.msgpack.encode((request.salt, request.adapter, images)), digest_size=16).digest()
