from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.interfaces.request import Request, SamplingParams
from maxserve.core.registry.host import Manifest
from maxserve.core.registry.sources import Source
from maxserve.core.runtime.executors import executor_context
from maxserve.core.runtime.lifeline import encode_start
from maxserve.core.runtime.messages import (
    Abort,
    Failed,
    FromWorker,
    Hello,
    Outputs,
    Phase,
    Ready,
    RequestRejected,
    ResetPrefixCache,
    Start,
    Submit,
)
from maxserve.core.runtime.sockets import ApiChannel
from maxserve.plugins.executors.endpoints import endpoints
from maxserve.plugins.executors.local import LocalLauncher, LocalWorker

STUB = Path(__file__).parent / "stub"
SLOW, REFUSED, RAISING, RESTING = 1, 3, 4, 5


@pytest.fixture
def addresses() -> Iterator[Endpoints]:
    with endpoints(None) as pair:
        yield pair


@pytest.fixture
def start_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    monkeypatch.syspath_prepend(str(STUB))
    import starts  # type: ignore[import-not-found]

    return starts.start_of  # type: ignore[no-any-return]


class Talk:
    """A worker and every message of it."""

    def __init__(self, child: LocalWorker, channel: ApiChannel) -> None:
        self.child = child
        self.channel = channel
        self._heard: asyncio.Queue[FromWorker] = asyncio.Queue()
        channel.listen(self._heard.put_nowait)

    async def next(self) -> FromWorker:
        async with asyncio.timeout(30):
            return await self._heard.get()

    async def ready(self) -> list[FromWorker]:
        heard = [await self.next()]
        while not isinstance(heard[-1], Ready | Failed):
            heard.append(await self.next())
        self.channel.connect()
        return heard

    async def outputs(self) -> Outputs:
        message = await self.next()
        assert isinstance(message, Outputs), message
        return message


@asynccontextmanager
async def worker(start: Start) -> AsyncIterator[Talk]:
    channel = ApiChannel(start.endpoints)
    child = LocalLauncher(executor_context()).launch(encode_start(start))
    try:
        yield Talk(child, channel)
    finally:
        child.kill()
        channel.close()


def request(id: str, kind: int = 0, max_tokens: int | None = None) -> Request:
    return Request(id=id, prompt=(kind,), params=SamplingParams(max_tokens=max_tokens))


def test_the_start_is_reported_step_by_step(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            hello, *phases, ready = await talk.ready()
            assert isinstance(hello, Hello)
            assert hello.pid == talk.child.pid
            assert phases == [Phase(text="counting"), Phase(text="counting", fraction=0.5)]
            assert isinstance(ready, Ready)
            assert ready.info.name == "counter"

    asyncio.run(main())


def test_steps_give_one_message_for_all_requests(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(Submit(requests=(request("a", max_tokens=1), request("b", max_tokens=2))))
            first, second = await talk.outputs(), await talk.outputs()
            assert [(o.id, o.tokens, o.finish) for o in first.outputs] == [("a", (0,), "length"), ("b", (0,), None)]
            assert [(o.id, o.tokens, o.finish) for o in second.outputs] == [("b", (1,), "length")]
            assert (first.stats.running, second.stats.running) == (1, 0)

    asyncio.run(main())


def test_refused_request_is_answered_and_others_go_on(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(Submit(requests=(request("bad", REFUSED), request("good", max_tokens=1))))
            outputs = await talk.outputs()
            assert outputs.rejected == (
                RequestRejected(id="bad", message="refused", param="prompt", code="no", status=422),
            )
            assert [o.id for o in outputs.outputs] == ["good"]

    asyncio.run(main())


def test_abort_frees_a_running_request_and_stats_say_so(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(Submit(requests=(request("endless", SLOW),)))
            assert (await talk.outputs()).stats.running == 1
            talk.channel.send(Abort(ids=("endless", "unknown")))
            while (last := await talk.outputs()).stats.running:
                pass
            assert last.stats.preemptions == 1

    asyncio.run(main())


def test_the_prefix_cache_is_reset_on_request(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(ResetPrefixCache())
            assert (await talk.outputs()).stats.prefix_hits == 1

    asyncio.run(main())


@pytest.mark.parametrize(
    ("engine", "failed"),
    [
        ("build_unfit", Failed(message="the model does not fit", kind="usage")),
        ("build_broken", Failed(message="ZeroDivisionError: a bug", kind="engine")),
    ],
)
def test_failed_start_says_whose_fault_it_is(
    addresses: Endpoints, start_of: Callable[..., Start], engine: str, failed: Failed, capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with worker(start_of(addresses, engine)) as talk:
            assert (await talk.ready())[-1] == failed

    asyncio.run(main())
    assert ("Traceback" in capfd.readouterr().err) == (failed.kind == "engine")


def test_an_engine_that_breaks_ends_the_worker_with_a_reason(
    addresses: Endpoints, start_of: Callable[..., Start], capfd: pytest.CaptureFixture[str]
) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(Submit(requests=(request("r", RAISING),)))
            assert await talk.next() == Failed(message="RuntimeError: the engine broke", kind="engine")

    asyncio.run(main())
    assert "RuntimeError: the engine broke" in capfd.readouterr().err


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x81\xa4type\xa6Submit", bytes(50)])
def test_a_frame_that_is_no_message_ends_the_worker_with_a_reason(
    addresses: Endpoints, start_of: Callable[..., Start], capfd: pytest.CaptureFixture[str], frame: bytes
) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel._requests.send(frame)
            failed = await talk.next()
            assert isinstance(failed, Failed)
            assert failed.kind == "engine"
            assert "Error: " in failed.message

    asyncio.run(main())
    assert "the worker failed" in capfd.readouterr().err


def test_other_plugins_than_the_server_has_stop_the_start(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        manifest = Manifest(sources=(), declared=("scheduler gone plugin=acme target=a:b distribution=acme",))
        async with worker(start_of(addresses, manifest=manifest)) as talk:
            failed = (await talk.ready())[-1]
            assert isinstance(failed, Failed)
            assert failed.kind == "usage"
            assert "scheduler gone plugin=acme" in failed.message

    asyncio.run(main())


def test_plugins_hear_of_the_process_and_of_its_end(
    addresses: Endpoints, start_of: Callable[..., Start], tmp_path: Path
) -> None:
    (tmp_path / "acme_diary.py").write_text(
        "from pathlib import Path\n"
        "from maxserve import hookimpl\n"
        f"PAGE = Path({str(tmp_path / 'diary')!r})\n"
        "@hookimpl\n"
        "def maxserve_process_start(process):\n"
        "    PAGE.write_text(f'start {process.kind}')\n"
        "    process.on_exit(lambda: PAGE.write_text(PAGE.read_text() + ', end'))\n"
    )
    source = Source(name="acme_diary", target="acme_diary", origin="--plugin", folder=str(tmp_path))

    async def main() -> None:
        from maxserve.core.runtime.messages import Shutdown

        async with worker(start_of(addresses, manifest=Manifest(sources=(source,)))) as talk:
            await talk.ready()
            talk.channel.send(Shutdown())
            async with asyncio.timeout(10):
                assert await talk.child.exited() == 0

    asyncio.run(main())
    assert (tmp_path / "diary").read_text() == "start worker, end"


def test_idle_worker_sleeps(addresses: Endpoints, start_of: Callable[..., Start]) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            process = psutil.Process(talk.child.pid)
            before = process.num_ctx_switches().voluntary
            await asyncio.sleep(0.5)
            assert process.num_ctx_switches().voluntary - before <= 10

    asyncio.run(main())


def test_a_worker_whose_engine_rests_sleeps_and_still_hears(
    addresses: Endpoints, start_of: Callable[..., Start]
) -> None:
    async def main() -> None:
        async with worker(start_of(addresses)) as talk:
            await talk.ready()
            talk.channel.send(Submit(requests=(request("resting", RESTING),)))
            assert (await talk.outputs()).stats.running == 1
            process = psutil.Process(talk.child.pid)
            before = process.num_ctx_switches().voluntary
            await asyncio.sleep(0.5)
            assert process.num_ctx_switches().voluntary - before <= 10
            talk.channel.send(Submit(requests=(request("other", max_tokens=1),)))
            assert [output.id for output in (await talk.outputs()).outputs] == ["other"]
            talk.channel.send(Abort(ids=("resting",)))
            assert (await talk.outputs()).stats.running == 0

    asyncio.run(main())
