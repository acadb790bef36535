"""Sockets between the API process and one worker.

Two ZMQ PUSH/PULL pairs without high-water marks. Who receives binds and who sends connects, so that a send never has to
wait for the other side. Each worker has channels of its own: nothing of a dead one reaches its successor.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import ipaddress
import logging
import math
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import zmq

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.runtime.messages import Endpoints, FromWorker, Message, ToWorker
from maxserve.core.runtime.private_folder import private_folder

log = logging.getLogger("maxserve.ipc")

DRAIN = 256  # messages read before other tasks of the event loop get their turn
IN_USE = "another server uses it; give each a base of its own, or leave the option out"
LAST_WORDS_MS = 2000  # how long a closing worker waits for what it declared to be read


@contextmanager
def endpoints(base: str | None) -> Iterator[Endpoints]:
    """Addresses for one server's workers, in a private folder unless `base` (`--zmq-endpoint-base`) says where.

    No socket file is left behind. SettingsError when `base` cannot be used between processes.
    """
    if base is None:
        with private_folder() as folder:
            yield _pair(f"ipc://{folder}/worker")
        return
    pair = _pair(base)
    _warn_if_open(base)
    with _alone(base):
        try:
            yield pair
        finally:
            for address in (pair.requests, pair.outputs):
                if address.startswith("ipc://"):
                    Path(address.removeprefix("ipc://")).unlink(missing_ok=True)


@contextmanager
def _alone(base: str) -> Iterator[None]:
    """Holds a base while the block runs; SettingsError where another server holds it.

    ZMQ would bind a second socket at an ipc:// path without a word, and the first server would hear nothing more. At
    tcp:// addresses binding fails, but in the worker, after the model was loaded.
    """
    if base.startswith("ipc://@"):  # a name of Linux that is no file, which cannot be bound twice
        yield
    elif base.startswith("ipc://"):
        with _locked(base):
            yield
    else:
        pair = _pair(base)
        for address in (pair.requests, pair.outputs):
            _validate_free(base, address)
        yield


@contextmanager
def _locked(base: str) -> Iterator[None]:
    lock = Path(f"{base.removeprefix('ipc://')}-lock")
    try:
        held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsError(f"--zmq-endpoint-base {base}: {lock} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise SettingsError(f"--zmq-endpoint-base {base}: {IN_USE}") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(held)


def _validate_free(base: str, address: str) -> None:
    """SettingsError for a tcp:// address at which something listens already."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(f"--zmq-endpoint-base {base}: {IN_USE}") from None


def _pair(base: str) -> Endpoints:
    scheme, _, rest = base.partition("://")
    if scheme == "tcp":
        return _tcp_pair(base, rest)
    if scheme == "ipc" and rest:
        pair = Endpoints(requests=f"{base}-requests", outputs=f"{base}-outputs")
        longest = len(pair.requests.removeprefix("ipc://").encode())
        if longest > zmq.IPC_PATH_MAX_LEN:
            raise SettingsError(
                f"--zmq-endpoint-base {base}: its socket paths have {longest} bytes and this system allows "
                f"{zmq.IPC_PATH_MAX_LEN}; choose a shorter folder"
            )
        return pair
    if scheme == "inproc":
        raise SettingsError(
            f"--zmq-endpoint-base {base}: inproc:// cannot join two processes; use ipc://PATH or tcp://HOST:PORT"
        )
    raise SettingsError(f"--zmq-endpoint-base {base}: expected ipc://PATH or tcp://HOST:PORT")


def _tcp_pair(base: str, rest: str) -> Endpoints:
    """The port that was named and the one after it."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:*]+):(\d+)", rest)
    if match is None:
        raise SettingsError(f"--zmq-endpoint-base {base}: expected tcp://HOST:PORT with a host to connect to")
    host, port = match[1], int(match[2])
    if not 1 <= port <= 65534:
        raise SettingsError(
            f"--zmq-endpoint-base {base}: the port must be 1 to 65534, since it and the next one are used"
        )
    return Endpoints(requests=f"tcp://{host}:{port}", outputs=f"tcp://{host}:{port + 1}")


def _warn_if_open(base: str) -> None:
    """Says so when others than this machine can reach the sockets, which have no authentication."""
    scheme, _, rest = base.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if scheme == "tcp" and not _is_loopback(host):
        log.warning(
            "--zmq-endpoint-base %s: who reaches %s can read prompts and give orders to the worker; "
            "nothing there is encrypted or asks for a key",
            base,
            host,
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, address: str) -> zmq.Socket[bytes]:
    made = context.socket(kind)
    made.setsockopt(zmq.SNDHWM, 0)
    made.setsockopt(zmq.RCVHWM, 0)
    made.setsockopt(zmq.LINGER, 0)
    made.setsockopt(zmq.IPV6, "[" in address)
    return made


def _bound(context: zmq.Context[zmq.Socket[bytes]], address: str) -> zmq.Socket[bytes]:
    made = _socket(context, zmq.PULL, address)
    try:
        made.bind(address)
    except zmq.ZMQError as error:
        made.close()
        raise SettingsError(f"cannot open {address}: {error.strerror}; see --zmq-endpoint-base") from error
    return made


class ApiChannel:
    """The API process's end. One event loop owns it once `listen` was called."""

    def __init__(self, addresses: Endpoints) -> None:
        self._addresses = addresses
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromWorker)
        self._loop: asyncio.AbstractEventLoop | None = None
        try:
            self._outputs = _bound(self._context, addresses.outputs)
        except SettingsError:
            self._context.term()
            raise
        self._requests = _socket(self._context, zmq.PUSH, addresses.requests)

    def listen(self, receive: Callable[[FromWorker], None]) -> None:
        """Calls `receive` with each message, from the running event loop, until `close`."""
        self._loop = asyncio.get_running_loop()
        self._receive = receive
        self._loop.add_reader(self._outputs.FD, self._drain)
        self._drain()  # what came before is not signalled again

    def _drain(self) -> None:
        """Reads until nothing is left: the descriptor tells of changes only, so stopping early would lose the rest.

        Where `receive` fails the event loop hears of it, and the rest is read all the same.
        """
        again = True
        try:
            again = self._receive_some()
        finally:
            if again and not self._outputs.closed:
                assert self._loop is not None
                self._loop.call_soon(self._drain)

    def _receive_some(self) -> bool:
        """Whether there may be more."""
        for _ in range(DRAIN):
            if self._outputs.closed:
                return False
            try:
                frame = self._outputs.recv(zmq.NOBLOCK)
            except zmq.Again:
                return False
            self._receive(self._decoder.decode(frame))
        return True

    def connect(self) -> None:
        """Opens the way to the worker; call it when the worker sent its hello, for then it has bound its address."""
        self._requests.connect(self._addresses.requests)

    def send(self, message: ToWorker) -> None:
        self._requests.send(self._encoder.encode(message), zmq.NOBLOCK)

    def close(self) -> None:
        """Gives up both sockets, and what was not yet read or sent; harmless when closed already."""
        if self._outputs.closed:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._outputs.FD)
        self._outputs.close()
        self._requests.close()
        self._context.term()


class WorkerChannel:
    """The worker's end. One thread owns it, but for `send` and `wake`, which any may call."""

    def __init__(self, addresses: Endpoints) -> None:
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(ToWorker)
        self._outputs = _socket(self._context, zmq.PUSH, addresses.outputs)
        self._outputs.connect(addresses.outputs)
        self._sending = threading.Lock()
        self._requests = _bound(self._context, addresses.requests)
        self._woken, self._waking = os.pipe()
        os.set_blocking(self._waking, False)
        os.set_blocking(self._woken, False)
        self._poller = zmq.Poller()
        self._poller.register(self._requests, zmq.POLLIN)
        self._poller.register(self._woken, zmq.POLLIN)

    def send(self, message: Message) -> None:
        with self._sending:
            self._outputs.send(self._encoder.encode(message))

    def receive(self, *, timeout: float | None) -> Iterator[ToWorker]:
        """The messages that are there; sleeps up to `timeout` seconds, with None for ever, until there is one."""
        if timeout != 0:
            ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1000)))
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._requests not in ready:
                return
        while True:
            try:
                frame = self._requests.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield self._decoder.decode(frame)

    def wake(self) -> None:
        """Ends the sleep of `receive`, now or at its next call."""
        with suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._waking, b"!")

    def close(self) -> None:
        """Closes once the last words are on their way."""
        os.close(self._woken)
        os.close(self._waking)
        self._requests.close()
        self._outputs.close(linger=LAST_WORDS_MS)
        self._context.term()
