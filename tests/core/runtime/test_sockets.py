from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.runtime.messages import Abort, FromWorker, Phase
from maxserve.core.runtime.sockets import ApiChannel, WorkerChannel
from maxserve.plugins.executors.endpoints import endpoints


@pytest.fixture
def addresses() -> Iterator[Endpoints]:
    with endpoints(None) as pair:
        yield pair


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def free_ports() -> int:
    """A port that is free together with the next one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port: int = first.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
            return port


def exchange(pair: Endpoints, count: int) -> tuple[list[FromWorker], list[str]]:
    """Sends `count` messages each way and returns what arrived."""

    async def main() -> tuple[list[FromWorker], list[str]]:
        api, worker = ApiChannel(pair), WorkerChannel(pair)
        heard: list[FromWorker] = []
        try:
            worker.send(Phase(text="early"))
            api.listen(heard.append)
            api.connect()
            for n in range(count):
                worker.send(Phase(text=str(n)))
                api.send(Abort(ids=(str(n),)))
            await until(lambda: len(heard) == count + 1)
            received: list[str] = []
            while len(received) < count:
                received += [id for m in worker.receive(timeout=None) if isinstance(m, Abort) for id in m.ids]
            return heard, received
        finally:
            worker.close()
            api.close()

    return asyncio.run(main())


def test_everything_arrives_in_order_however_much_comes_at_once(addresses: Endpoints) -> None:
    heard, received = exchange(addresses, 2000)
    assert heard == [Phase(text="early"), *(Phase(text=str(n)) for n in range(2000))]
    assert received == [str(n) for n in range(2000)]


def test_messages_after_a_silence_are_heard(addresses: Endpoints) -> None:
    """The descriptor tells of changes only: a reader that stops too early would sleep for ever."""

    async def main() -> None:
        api, worker = ApiChannel(addresses), WorkerChannel(addresses)
        heard: list[FromWorker] = []
        api.listen(heard.append)
        for n in range(20):
            worker.send(Phase(text=str(n)))
            await until(lambda n=n: len(heard) == n + 1)  # type: ignore[misc]
        worker.close()
        api.close()

    asyncio.run(main())


def test_a_receiver_that_fails_does_not_keep_the_rest_from_being_heard(addresses: Endpoints) -> None:
    """The descriptor would tell of what is queued already only when something else comes."""

    async def main() -> None:
        api, worker = ApiChannel(addresses), WorkerChannel(addresses)
        heard: list[str] = []
        failures: list[BaseException] = []

        def receive(message: FromWorker) -> None:
            assert isinstance(message, Phase)
            heard.append(message.text)
            if message.text in ("1", "2", "7"):
                raise KeyError(message.text)

        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        api.listen(receive)
        for n in range(9):
            worker.send(Phase(text=str(n)))
        await until(lambda: len(heard) == 9)
        assert heard == list("012345678")
        assert [str(failure) for failure in failures] == ["'1'", "'2'", "'7'"]
        worker.close()
        api.close()

    asyncio.run(main())


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x81\xa4type", b"\x93\x01\x02\x03", bytes(100)])
def test_a_frame_that_is_no_message_does_not_keep_the_rest_from_being_heard(addresses: Endpoints, frame: bytes) -> None:
    async def main() -> None:
        api, worker = ApiChannel(addresses), WorkerChannel(addresses)
        heard: list[FromWorker] = []
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))
        api.listen(heard.append)
        worker._outputs.send(frame)
        worker.send(Phase(text="after"))
        await until(lambda: heard == [Phase(text="after")])
        assert [isinstance(failure, msgspec.MsgspecError) for failure in failures] == [True]
        worker.close()
        api.close()

    asyncio.run(main())


def test_nothing_to_receive_is_an_empty_answer(addresses: Endpoints) -> None:
    worker = WorkerChannel(addresses)
    assert list(worker.receive(timeout=0)) == []
    assert list(worker.receive(timeout=0.001)) == []
    worker.close()


def test_a_wake_ends_the_sleep_once(addresses: Endpoints) -> None:
    worker = WorkerChannel(addresses)
    try:
        for _ in range(2):
            waker = threading.Timer(0.02, worker.wake)
            waker.start()
            assert list(worker.receive(timeout=None)) == []  # would sleep for ever
            waker.join()
        for _ in range(20_000):
            worker.wake()  # a wake never waits
    finally:
        worker.close()


def test_nothing_of_an_old_worker_reaches_the_next(addresses: Endpoints) -> None:
    async def main() -> None:
        first, old = ApiChannel(addresses), WorkerChannel(addresses)
        first.connect()
        first.send(Abort(ids=("old",)))
        old.send(Phase(text="old"))
        old.close()
        first.close()
        first.close()  # harmless
        heard: list[FromWorker] = []
        second, new = ApiChannel(addresses), WorkerChannel(addresses)
        second.listen(heard.append)
        second.connect()
        new.send(Phase(text="new"))
        second.send(Abort(ids=("new",)))
        await until(lambda: bool(heard))
        assert heard == [Phase(text="new")]
        assert next(new.receive(timeout=None)) == Abort(ids=("new",))
        new.close()
        second.close()

    asyncio.run(main())


def test_default_addresses_are_private_and_leave_nothing_behind() -> None:
    with endpoints(None) as pair:
        folder = Path(pair.requests.removeprefix("ipc://")).parent
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        exchange(pair, 1)
    assert not folder.exists()


def test_ipc_base_is_honoured_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with endpoints(f"ipc://{tmp_path}/m") as pair:
        assert pair == Endpoints(requests=f"ipc://{tmp_path}/m-requests", outputs=f"ipc://{tmp_path}/m-outputs")
        exchange(pair, 1)
        ApiChannel(pair).close()
    assert list(tmp_path.iterdir()) == []


def test_tcp_base_uses_its_port_and_the_next() -> None:
    port = free_ports()
    with endpoints(f"tcp://127.0.0.1:{port}") as pair:
        assert pair.outputs == f"tcp://127.0.0.1:{port + 1}"
        heard, _ = exchange(pair, 3)
        assert len(heard) == 4
        heard, _ = exchange(pair, 3)  # the next worker takes the same ports
        assert len(heard) == 4


def test_busy_address_is_named() -> None:
    port = free_ports()
    with (
        endpoints(f"tcp://127.0.0.1:{port}") as pair,
        socket.create_server(("127.0.0.1", port + 1)),
        pytest.raises(SettingsError, match=rf"tcp://127\.0\.0\.1:{port + 1}.*--zmq-endpoint-base"),
    ):
        ApiChannel(pair)
