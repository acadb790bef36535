"""Sockets between the API process and one worker.

Two ZMQ PUSH/PULL pairs without high-water marks. Who receives binds and who sends connects, so that a send never has to
wait for the other side. Each worker has channels of its own: nothing of a dead one reaches its successor.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import msgspec
import zmq

from maxserve.core.interfaces.errors import SettingsError
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.runtime.messages import FromWorker, Message, ToWorker

DRAIN = 256  # messages read before other tasks of the event loop run
LAST_WORDS_MS = 2000  # how long a closing worker waits for what it declared to be read


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
