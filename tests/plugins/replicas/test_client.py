from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from maxserve.interfaces.balancer import BalancerContext
from maxserve.interfaces.cache import CacheSizes
from maxserve.interfaces.errors import QueueFullError, RequestError, WorkerDied
from maxserve.interfaces.observer import StepStats
from maxserve.interfaces.request import AdapterChange, Encoded, EncodeRequest, Image, Output
from maxserve.plugins.replicas import pin
from maxserve.plugins.replicas.client import Replicas
from maxserve.testing import BalancerChecks, ScriptedReplica
from maxserve.testing.balancer import begin, request


def replicas(*parts: ScriptedReplica) -> Replicas:
    return Replicas(BalancerContext(replicas=parts))  # type: ignore[arg-type]


async def collect(outputs: AsyncGenerator[Any, None]) -> list[Any]:
    return [output async for output in outputs]


class TestLeastCost(BalancerChecks):
    balancer = "least_cost"


def test_requests_are_spread_and_their_outputs_are_those_of_one_replica() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        tasks = [await begin(client, request(id, prompt=10 + n, salt=id)) for n, id in enumerate("abcd")]
        assert [part.asked for part in parts] == [["a", "c"], ["b", "d"]]
        assert (client.open, client.ready, client.capacity) == (4, True, None)
        for part in parts:
            for id, queue in part.queues.items():
                queue.put_nowait(Output(id=id, tokens=(1,)))
                queue.put_nowait(Output(id=id, tokens=(2,), finish="stop"))
        assert [[output.tokens for output in await task] for task in tasks] == [[(1,), (2,)]] * 4
        assert client.open == 0

    asyncio.run(main())


def test_what_shares_a_prefix_goes_to_one_replica() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        for id, salt in (("a", ""), ("b", "other")):
            task = await begin(client, request(id, 1000, salt=salt))
            next(part for part in parts if id in part.queues).queues[id].put_nowait(Output(id=id, finish="stop"))
            await task
        for id, salt in (("b2", "other"), ("a2", ""), ("a3", "")):
            await begin(client, request(id, 1000, salt=salt))
        assert [part.asked for part in parts] == [["a", "a2", "a3"], ["b", "b2"]]

    asyncio.run(main())


def test_adapters_and_images_keep_prefixes_apart() -> None:
    async def main() -> None:
        image = Image(digest=b"1", start=0, length=1, token=0, tensors={})
        for fields in ({"adapter": "x"}, {"images": (image,)}):
            parts = ScriptedReplica(), ScriptedReplica()
            client = replicas(*parts)
            await begin(client, request("a", 1000))
            await begin(client, request("b", 1000, **fields))
            assert [part.asked for part in parts] == [["a"], ["b"]]

    asyncio.run(main())


def test_a_request_of_a_replica_that_dies_goes_to_another_unless_it_gave_something() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        first, second = await begin(client, request("a")), await begin(client, request("b", salt="b"))
        parts[1].queues["b"].put_nowait(Output(id="b", tokens=(1,)))
        await asyncio.sleep(0)
        for part, id in zip(parts, "ab", strict=True):
            part.ready = False
            part.queues[id].put_nowait(WorkerDied("killed"))
            await asyncio.sleep(0.01)
            part.ready = True
        with pytest.raises(WorkerDied, match="killed"):
            await second
        parts[1].queues["a"].put_nowait(Output(id="a", finish="stop"))
        assert [output.finish for output in await first] == ["stop"]

    asyncio.run(main())


def test_where_none_is_left_the_error_is_that_of_the_last() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        task = await begin(client, request("a"))
        parts[0].ready = parts[1].ready = False
        assert not client.ready
        parts[0].queues["a"].put_nowait(WorkerDied("killed"))
        with pytest.raises(WorkerDied, match="killed"):
            await task
        with pytest.raises(WorkerDied, match="no worker is running"):
            await collect(client.generate(request("b")))

    asyncio.run(main())


def test_full_replicas_are_passed_over_until_all_are() -> None:
    async def main() -> None:
        parts = ScriptedReplica(capacity=1), ScriptedReplica(capacity=2)
        client = replicas(*parts)
        assert client.capacity == 3
        for id in "abc":
            await begin(client, request(id))  # one prefix: the second replica gets it only as the first is full
        assert [part.asked for part in parts] == [["a"], ["b", "c"]]
        with pytest.raises(QueueFullError):
            await collect(client.generate(request("d")))

    asyncio.run(main())


def test_what_is_given_up_counts_no_more() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        task = await begin(client, request("a", 5000))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert client.open == 0
        await begin(client, request("b", 10, salt="b"))
        await begin(client, request("c", 10, salt="c"))
        assert [part.asked for part in parts] == [["a", "c"], ["b"]]

    asyncio.run(main())


def test_texts_to_be_encoded_are_spread_by_their_tokens() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        task = await begin(client, EncodeRequest(id="a", texts=((1,) * 500,)))
        for id in "bc":
            await begin(client, EncodeRequest(id=id, texts=((1,), (2,))))
        assert [part.asked for part in parts] == [["a"], ["b", "c"]]
        parts[0].queues["a"].put_nowait(Encoded(id="a", finish="stop"))
        assert len(await task) == 1

    asyncio.run(main())


def test_adapters_are_changed_on_all_or_none() -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        load = AdapterChange(id="1", action="load", name="x", source="/x")
        await client.change_adapter(load)
        assert [part.changes for part in parts] == [[load], [load]]
        parts[1].refused = RequestError("no slot")
        with pytest.raises(RequestError, match="no slot"):
            await client.change_adapter(load)
        assert [(change.action, change.name) for change in parts[0].changes[1:]] == [("load", "x"), ("unload", "x")]
        parts[1].ready = False
        with pytest.raises(RequestError, match="being started anew") as caught:
            await client.change_adapter(load)
        assert caught.value.status == 503

    asyncio.run(main())


def test_an_adapter_that_replaced_another_cannot_be_undone(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        parts[1].refused = RequestError("broken")
        change = AdapterChange(id="1", action="load", name="x", source="/x", replace=True)
        with pytest.raises(RequestError, match="broken"):
            await replicas(*parts).change_adapter(change)
        assert "the adapter x is not the same on all replicas now" in caplog.text

    asyncio.run(main())


def stats(steps: int, page_size: int = 64, pages: int = 100) -> StepStats:
    cache = CacheSizes(total=pages, free=pages, cached=0, owned=0)
    return StepStats(time=0.0, running=0, waiting=0, cache=cache, steps=steps, page_size=page_size)


@pytest.mark.parametrize("how", ["reset", "another worker"])
def test_an_emptied_cache_has_no_prefixes(how: str) -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        client.on_replica_step(0, stats(5))
        await begin(client, request("a", 1000))
        await begin(client, request("b", 900, salt="b"))
        if how == "reset":
            await client.reset_prefix_cache()
            assert [part.resets for part in parts] == [1, 1]
        else:
            client.on_replica_step(0, stats(1))
        await begin(client, request("a2", 1000))
        assert [part.asked for part in parts] == [["a"], ["b", "a2"]]

    asyncio.run(main())


@pytest.mark.parametrize(("wanted", "given"), [("1", [[], ["a", "b"]]), ("0", [["a", "b"], []]), ("", [["a"], ["b"]])])
def test_a_header_pins_a_request(wanted: str, given: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        parts = ScriptedReplica(), ScriptedReplica()
        client = replicas(*parts)
        headers = [(b"host", b"x"), (b"x-data-parallel-rank", wanted.encode())] if wanted else []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            for id in "ab":
                await begin(client, request(id, salt=id))

        wrapped = pin.ReplicaPin(None)(app)  # type: ignore[arg-type]
        await asyncio.ensure_future(wrapped({"type": "http", "headers": headers}, None, None))  # type: ignore[arg-type]
        assert [part.asked for part in parts] == given

    asyncio.run(main())


@pytest.mark.parametrize("wanted", ["2", "-1", "x", "1.0", "²"])
def test_a_replica_that_is_not_there(wanted: str) -> None:
    async def main() -> None:
        pin._wanted.set(wanted)
        with pytest.raises(RequestError, match="X-data-parallel-rank: expected a number below 2"):
            await collect(replicas(ScriptedReplica(), ScriptedReplica()).generate(request("a")))

    asyncio.run(main())
