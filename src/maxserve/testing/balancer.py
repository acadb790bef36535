"""Checks of balancers, and replicas that do what a test says.

class TestAcme(BalancerChecks):
    balancer = "acme"
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, ClassVar

from maxserve.core.interfaces.balancer import Balancer, BalancerContext, BalancesReplicas
from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.errors import MaxserveError, QueueFullError, RequestError, WorkerDied
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.core.registry.contracts import contract_fault
from maxserve.testing.resolve import load, resolve

__all__ = ["BalancerChecks", "ScriptedReplica"]

PAGES = CacheSizes(total=100, free=60, cached=30, owned=10)


class ScriptedReplica:
    """An EngineClient whose requests get what the test puts into their `queues`: outputs, or an error to raise."""

    def __init__(self, *, capacity: int | None = None) -> None:
        self.ready, self.capacity = True, capacity
        self.asked: list[str] = []
        self.changes: list[AdapterChange] = []
        self.resets = 0
        self.refused: Exception | None = None  # what changes of adapters are answered with
        self.queues: dict[str, asyncio.Queue[Any]] = {}

    @property
    def open(self) -> int:
        return len(self.queues)

    async def generate(self, request: Request | EncodeRequest) -> AsyncGenerator[Any, None]:
        if not self.ready:
            raise WorkerDied("no worker is running")
        if self.capacity is not None and self.open >= self.capacity:
            raise QueueFullError("full")
        self.asked.append(request.id)
        queue = self.queues[request.id] = asyncio.Queue()
        try:
            while True:
                item = await queue.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            del self.queues[request.id]

    encode = generate

    async def change_adapter(self, change: AdapterChange) -> None:
        if self.refused is not None:
            raise self.refused
        self.changes.append(change)

    async def reset_prefix_cache(self) -> None:
        self.resets += 1

    def die(self, error: str = "killed") -> None:
        """Ends what it was asked, and is not ready any more."""
        self.ready = False
        for queue in self.queues.values():
            queue.put_nowait(WorkerDied(error))


class BalancerChecks:
    """Subclass it and name a registered `balancer`, or give the `component` itself. `sections`: settings, by schema."""

    balancer: ClassVar[str] = ""
    component: ClassVar[Balancer | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}

    def made(self, *replicas: ScriptedReplica) -> BalancesReplicas:
        """A fresh one of these replicas."""
        build = load(resolve(Balancer, self.balancer, self.component).build)
        built: BalancesReplicas = build(BalancerContext(sections=self.sections, replicas=replicas))
        return built

    # --- checks -------------------------------------------------------------------------------------------------

    def test_keeps_the_contract(self) -> None:
        assert contract_fault("balancer", self.made(ScriptedReplica(), ScriptedReplica())) is None

    def test_outputs_come_as_the_replica_gives_them(self) -> None:
        outputs = [Output(id="a", tokens=(1,)), Output(id="a", tokens=(2, 3)), Output(id="a", finish="stop")]

        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            task = await begin(self.made(*replicas), request("a"))
            (asked,) = [replica for replica in replicas if replica.asked]
            for output in outputs:
                asked.queues["a"].put_nowait(output)
            assert await task == outputs
            assert not asked.open

        run(check())

    def test_every_request_goes_to_one_replica_and_all_are_used(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica(), ScriptedReplica()
            balancer = self.made(*replicas)
            for number in range(30):
                await begin(balancer, request(str(number), salt=str(number)))
            assert sorted(id for replica in replicas for id in replica.asked) == sorted(map(str, range(30)))
            assert all(replica.asked for replica in replicas)
            assert balancer.open == 30

        run(check())

    def test_what_is_given_up_is_aborted(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            task = await begin(self.made(*replicas), request("a"))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert [replica.open for replica in replicas] == [0, 0]

        run(check())

    def test_texts_are_encoded(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            task = await begin(self.made(*replicas), EncodeRequest(id="a", texts=((1, 2), (3,))))
            (asked,) = [replica for replica in replicas if replica.asked]
            asked.queues["a"].put_nowait(Encoded(id="a", finish="stop"))
            assert await task == [Encoded(id="a", finish="stop")]

        run(check())

    def test_a_replica_that_is_not_ready_is_asked_nothing(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            balancer = self.made(*replicas)
            replicas[0].die()
            for number in range(8):
                await begin(balancer, request(str(number)))
            assert (balancer.ready, len(replicas[1].asked)) == (True, 8)
            replicas[1].ready = False
            assert not balancer.ready

        run(check())

    def test_full_replicas_are_passed_over(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(capacity=1), ScriptedReplica(capacity=3)
            balancer = self.made(*replicas)
            tasks = [await begin(balancer, request(str(number))) for number in range(5)]
            assert [replica.open for replica in replicas] == [1, 3]
            found = await asyncio.gather(tasks[4], return_exceptions=True)
            assert isinstance(found[0], QueueFullError)
            assert balancer.capacity == 4

        run(check())

    def test_an_answer_that_has_begun_ends_with_its_replica(self) -> None:
        """Nothing of it is said twice."""

        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            task = await begin(self.made(*replicas), request("a"))
            (asked,) = [replica for replica in replicas if replica.asked]
            asked.queues["a"].put_nowait(Output(id="a", tokens=(1,)))
            await asyncio.sleep(0.01)
            asked.die("killed in the middle")
            found = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(found[0], WorkerDied)
            assert sum(len(replica.asked) for replica in replicas) == 1

        run(check())

    def test_adapters_are_changed_on_all_or_the_error_is_told(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            balancer = self.made(*replicas)
            change = AdapterChange(id="1", action="load", name="x", source="/x")
            await balancer.change_adapter(change)
            assert all([made.name for made in replica.changes] == ["x"] for replica in replicas)
            replicas[1].refused = RequestError("no slot is free")
            try:
                await balancer.change_adapter(change)
            except MaxserveError as error:
                assert "no slot is free" in str(error)  # noqa: PT017 (the kit needs no pytest)
            else:
                raise AssertionError("one replica cannot have the adapter, and the caller is not told")

        run(check())

    def test_all_caches_are_reset(self) -> None:
        async def check() -> None:
            replicas = ScriptedReplica(), ScriptedReplica()
            await self.made(*replicas).reset_prefix_cache()
            assert [replica.resets for replica in replicas] == [1, 1]

        run(check())

    def test_statistics_are_those_of_all(self) -> None:
        balancer = self.made(ScriptedReplica(), ScriptedReplica())
        balancer.on_replica_step(0, StepStats(time=1.0, running=2, waiting=1, cache=PAGES, steps=1, prompt_tokens=5))
        both = balancer.on_replica_step(
            1, StepStats(time=2.0, running=3, waiting=0, cache=PAGES, steps=1, prompt_tokens=7)
        )
        assert (both.running, both.waiting, both.prompt_tokens, both.cache.total) == (5, 1, 12, 200)


def request(id: str, prompt: int = 10, **fields: Any) -> Request:
    return Request(id=id, prompt=tuple(range(prompt)), **fields)


async def begin(balancer: Any, asked: Request | EncodeRequest) -> asyncio.Task[list[Any]]:
    """What a request gives, which has reached its replica."""
    outputs = balancer.encode(asked) if isinstance(asked, EncodeRequest) else balancer.generate(asked)

    async def collect() -> list[Any]:
        return [output async for output in outputs]

    task = asyncio.ensure_future(collect())
    await asyncio.sleep(0.001)
    return task


def run(check: Coroutine[Any, Any, None]) -> None:
    """Runs a check, and ends what it leaves open."""
    asyncio.run(check)
