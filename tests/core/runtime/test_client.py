from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from maxserve.core.interfaces.cache import CacheSizes
from maxserve.core.interfaces.errors import QueueFullError, RequestError, WorkerDied
from maxserve.core.interfaces.observer import RequestStats, StepStats
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.core.runtime.client import WorkerClient
from maxserve.core.runtime.messages import Abort, Encode, Outputs, RequestRejected, ResetPrefixCache, Submit, ToWorker
from maxserve.core.runtime.observing import Observers


class Recorder:
    """A channel without another end."""

    def __init__(self) -> None:
        self.sent: list[ToWorker] = []

    def send(self, message: ToWorker) -> None:
        self.sent.append(message)

    def aborted(self) -> list[str]:
        return [id for message in self.sent if isinstance(message, Abort) for id in message.ids]

    def submitted(self) -> list[str]:
        return [r.id for message in self.sent if isinstance(message, Submit) for r in message.requests]


class Watcher:
    def __init__(self) -> None:
        self.steps: list[StepStats] = []

    def on_step(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def on_request(self, stats: RequestStats) -> None:
        raise AssertionError("routes tell of requests, not the client")


def attached(max_queue_size: int | None = None, *, batch_size: int = 1) -> tuple[WorkerClient, Recorder]:
    client, channel = WorkerClient(max_queue_size=max_queue_size), Recorder()
    client.attach(channel, batch_size)
    return client, channel


def request(id: str) -> Request:
    return Request(id=id, prompt=(1, 2))


def step(*outputs: Output, running: int = 0, rejected: tuple[RequestRejected, ...] = ()) -> Outputs:
    sizes = CacheSizes(total=1, free=1, cached=0, owned=0)
    return Outputs(
        outputs=outputs, stats=StepStats(time=0.0, running=running, waiting=0, cache=sizes), rejected=rejected
    )


async def collect(client: WorkerClient, id: str) -> list[int]:
    return [token async for output in client.generate(request(id)) for token in output.tokens]


def test_each_request_gets_its_own_outputs_until_it_ends() -> None:
    async def main() -> None:
        client, channel = attached()
        first, second = asyncio.ensure_future(collect(client, "a")), asyncio.ensure_future(collect(client, "b"))
        await asyncio.sleep(0)
        assert channel.submitted() == ["a", "b"]
        client.deliver(step(Output(id="a", tokens=(1,)), Output(id="b", tokens=(7,)), running=2))
        client.deliver(step(Output(id="a", tokens=(2,), finish="stop"), Output(id="b", tokens=(8,)), running=1))
        assert await first == [1, 2]
        assert not second.done()
        client.deliver(step(Output(id="b", tokens=(9,), finish="length")))
        assert await second == [7, 8, 9]
        assert channel.aborted() == []
        assert (client.open, client.served) == (0, 2)

    asyncio.run(main())


def test_closing_early_aborts() -> None:
    async def main() -> None:
        client, channel = attached()
        outputs = client.generate(request("a"))
        async with aclosing(outputs):
            waiting = asyncio.ensure_future(anext(outputs))
            await asyncio.sleep(0)
            client.deliver(step(Output(id="a", tokens=(1,)), running=1))
            await waiting
        assert channel.aborted() == ["a"]
        assert client.open == 0
        client.deliver(step(Output(id="a", tokens=(2,))))  # it was on its way, and is ignored

    asyncio.run(main())


def test_cancelling_a_waiting_consumer_aborts() -> None:
    async def main() -> None:
        client, channel = attached()
        task = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        assert channel.aborted() == ["a"]

    asyncio.run(main())


def test_closing_after_the_worker_finished_sends_nothing() -> None:
    async def main() -> None:
        client, channel = attached()
        outputs = client.generate(request("a"))
        async with aclosing(outputs):
            waiting = asyncio.ensure_future(anext(outputs))
            await asyncio.sleep(0)
            client.deliver(step(Output(id="a", tokens=(1,)), running=1))
            client.deliver(step(Output(id="a", tokens=(2,), finish="stop")))
            await waiting
        assert channel.aborted() == []

    asyncio.run(main())


def test_dead_worker_ends_every_open_request_at_once() -> None:
    async def main() -> None:
        client, channel = attached()
        tasks = [asyncio.ensure_future(collect(client, str(n))) for n in range(5)]
        await asyncio.sleep(0)
        client.fail(WorkerDied("killed"))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(result) for result in results] == ["killed"] * 5
        assert not client.ready
        assert channel.aborted() == []
        with pytest.raises(WorkerDied, match="started anew"):
            await collect(client, "later")

    asyncio.run(main())


def test_stopping_ends_open_requests_with_503() -> None:
    async def main() -> None:
        client, _ = attached()
        waiting = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        client.stop()
        with pytest.raises(RequestError, match="stopping") as caught:
            await waiting
        assert (caught.value.status, client.open) == (503, 0)

    asyncio.run(main())


def test_next_worker_serves_the_same_client() -> None:
    async def main() -> None:
        client, _ = attached()
        client.fail(WorkerDied("killed"))
        second = Recorder()
        client.attach(second, 1)
        task = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        assert second.submitted() == ["a"]
        client.deliver(step(Output(id="a", tokens=(5,), finish="length")))
        assert await task == [5]

    asyncio.run(main())


def test_full_queue_is_refused_while_running_requests_do_not_count() -> None:
    async def main() -> None:
        client, channel = attached(max_queue_size=1, batch_size=1)
        tasks = [asyncio.ensure_future(collect(client, str(n))) for n in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError) as caught:
            await collect(client, "full")
        assert (caught.value.status, caught.value.retry_after) == (429, 1)
        client.deliver(step(Output(id="0", tokens=(5,), finish="length")))
        tasks.append(asyncio.ensure_future(collect(client, "third")))
        await asyncio.sleep(0)
        assert channel.submitted() == ["0", "1", "third"]
        client.fail(WorkerDied("end"))
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_capacity_is_a_batch_and_a_queue() -> None:
    assert attached(max_queue_size=3, batch_size=2)[0].capacity == 5
    assert attached(batch_size=2)[0].capacity is None


def test_refusal_of_the_engine_is_the_request_error_it_was() -> None:
    async def main() -> None:
        client, channel = attached()
        task = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        client.deliver(
            step(rejected=(RequestRejected(id="a", message="too long", param="prompt", code="c", status=413),))
        )
        with pytest.raises(RequestError, match="too long") as caught:
            await task
        assert (caught.value.param, caught.value.code, caught.value.status) == ("prompt", "c", 413)
        assert channel.aborted() == []
        assert client.served == 0

    asyncio.run(main())


def test_ids_in_use_are_refused_and_leave_the_first_alone() -> None:
    async def main() -> None:
        client, _ = attached()
        task = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        with pytest.raises(RequestError, match="in use"):
            await collect(client, "a")
        client.deliver(step(Output(id="a", tokens=(1,), finish="stop")))
        assert await task == [1]

    asyncio.run(main())


def test_failed_requests_do_not_count_as_served() -> None:
    async def main() -> None:
        client, _ = attached()
        task = asyncio.ensure_future(collect(client, "a"))
        await asyncio.sleep(0)
        client.deliver(step(Output(id="a", finish="error", error="the model step failed")))
        assert await task == []
        assert client.served == 0

    asyncio.run(main())


def test_observers_hear_of_every_step() -> None:
    client, _ = attached()
    watcher = Watcher()
    client.on_stats = Observers([watcher]).on_step
    client.deliver(step(running=3))
    client.deliver(step(running=1))
    assert [stats.running for stats in watcher.steps] == [3, 1]


def test_a_broken_observer_is_logged_once_and_holds_up_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Watcher):
        def on_step(self, stats: Any) -> None:
            raise KeyError("x")

    client, _ = attached()
    watcher = Watcher()
    client.on_stats = Observers([Broken(), watcher]).on_step
    client.deliver(step(running=3))
    client.deliver(step(running=1))
    assert [stats.running for stats in watcher.steps] == [3, 1]
    assert caplog.text.count("Broken failed at on_step") == 1


def test_prefix_cache_reset_is_handed_on() -> None:
    async def main() -> None:
        client, channel = attached()
        await client.reset_prefix_cache()
        assert channel.sent == [ResetPrefixCache()]
        client.fail(WorkerDied("x"))
        with pytest.raises(WorkerDied):
            await client.reset_prefix_cache()

    asyncio.run(main())


def test_ten_thousand_open_requests() -> None:
    async def main() -> None:
        client, _ = attached()
        tasks = [asyncio.ensure_future(collect(client, str(n))) for n in range(10_000)]
        await asyncio.sleep(0)
        assert client.open == 10_000
        client.deliver(step(*(Output(id=str(n), tokens=(n,), finish="stop") for n in range(10_000))))
        assert [tokens[0] for tokens in await asyncio.gather(*tasks)] == list(range(10_000))

    asyncio.run(main())


def texts(id: str, count: int) -> EncodeRequest:
    return EncodeRequest(id=id, texts=((1, 2),) * count)


def encoded(*answers: Encoded) -> Outputs:
    sizes = CacheSizes(total=0, free=0, cached=0, owned=0)
    return Outputs(outputs=(), stats=StepStats(time=0.0, running=0, waiting=0, cache=sizes), encoded=answers)


async def places(client: WorkerClient, request: EncodeRequest) -> list[int]:
    return [index async for answer in client.encode(request) for index in answer.indices]


def test_texts_are_encoded_like_requests() -> None:
    async def main() -> None:
        client, channel = attached()
        waiting = asyncio.ensure_future(places(client, texts("a", 3)))
        await asyncio.sleep(0)
        assert channel.sent == [Encode(requests=(texts("a", 3),))]
        client.deliver(encoded(Encoded(id="a", indices=(2,))))
        client.deliver(encoded(Encoded(id="a", indices=(0, 1), finish="stop"), Encoded(id="gone", indices=(0,))))
        assert await waiting == [2, 0, 1]
        assert (client.open, client.served, channel.aborted()) == (0, 1, [])

    asyncio.run(main())


def test_every_text_counts_in_the_queue() -> None:
    async def main() -> None:
        client, channel = attached(2, batch_size=3)
        waiting = asyncio.ensure_future(places(client, texts("a", 4)))
        await asyncio.sleep(0)
        assert client.open == 4
        with pytest.raises(QueueFullError):
            await places(client, texts("b", 2))
        single = asyncio.ensure_future(places(client, texts("c", 1)))
        await asyncio.sleep(0)
        for task in (waiting, single):
            task.cancel()
        await asyncio.wait((waiting, single))
        assert sorted(channel.aborted()) == ["a", "c"]
        assert client.open == 0

    asyncio.run(main())


def test_a_dead_worker_ends_texts_too() -> None:
    async def main() -> None:
        client, _ = attached()
        waiting = asyncio.ensure_future(places(client, texts("a", 1)))
        await asyncio.sleep(0)
        client.fail(WorkerDied("gone"))
        with pytest.raises(WorkerDied):
            await waiting

    asyncio.run(main())


def test_a_new_worker_is_given_the_latest_change_of_each_adapter() -> None:
    """Also where an unload that waited is reported after the load of another one of the name."""

    async def main() -> None:
        client = WorkerClient()
        client.attach(Recorder(), 1, ("first", "second"))

        def begun(name: str, action: Any, source: str = "") -> tuple[AdapterChange, asyncio.Future[None]]:
            change = AdapterChange(id=f"{action} {name} {source}", action=action, name=name, source=source)
            return change, asyncio.ensure_future(client.change_adapter(change))

        async def made(change: AdapterChange, task: asyncio.Future[None]) -> None:
            client.deliver(step(Output(id=change.id, finish="stop")))
            await task

        changes = [begun("first", "unload"), begun("x", "load", "/1"), begun("x", "unload"), begun("x", "load", "/2")]
        failing = begun("second", "load", "/3")
        await asyncio.sleep(0)
        for index in (0, 1, 3, 2):
            await made(*changes[index])
        refused = RequestRejected(id=failing[0].id, message="it is broken")
        client.deliver(step(rejected=(refused,)))
        with pytest.raises(RequestError, match="it is broken"):
            await failing[1]
        assert set(client.adapters.for_a_new_worker) == {changes[0][0], changes[3][0]}
        first_use = AdapterChange(id="y", action="load", name="y", source="/y", pinned=None)
        used = asyncio.ensure_future(client.change_adapter(first_use))
        await asyncio.sleep(0)
        await made(first_use, used)
        assert set(client.adapters.for_a_new_worker) == {changes[0][0], changes[3][0]}, (
            "what has the name is found anew"
        )
        gone = begun("x", "unload")
        await asyncio.sleep(0)
        await made(*gone)
        assert client.adapters.for_a_new_worker == (changes[0][0],), (
            "what is gone and was not there at the start is forgotten"
        )

    asyncio.run(main())
