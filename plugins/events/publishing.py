"""Publishing over ZMQ: a PUB socket, and a ROUTER for batches that were missed."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque

import zmq

from maxserve.interfaces.cache import Cache, CacheContext, SupportsListeners
from maxserve.interfaces.errors import SettingsError
from maxserve.plugins.events.batches import Batches
from maxserve.plugins.events.options import KVEventSettings, is_bound, of_replica
from maxserve.plugins.events.queue import EventQueue

log = logging.getLogger("maxserve.events")

LAST_WORDS_MS = 500  # how long a publisher that ends waits for what it sent to leave
GATHERING = 0.002  # seconds from the first event to its batch: those of a step come together, and wake once
END = (-1).to_bytes(8, "big", signed=True)
OPTION = "--kv-events.enable-kv-cache-events"


def publish(cache: Cache, context: CacheContext) -> None:
    """Publishes what `cache` gains and loses, if that is asked for, until it is gone or the process ends."""
    settings = context.config(KVEventSettings)
    if not settings.enable_kv_cache_events or settings.publisher == "null":
        return
    if not context.share_prefixes:
        raise SettingsError(f"{OPTION}: no prefixes are shared (--no-enable-prefix-caching); leave one of them out")
    if not isinstance(cache, SupportsListeners):
        raise SettingsError(f"{OPTION}: the chosen --cache-strategy tells no events ({type(cache).__name__}.listen)")
    settings = of_replica(settings, context.replica)
    batches = Batches(settings.encoding, context.page_size, context.groups, context.replica)
    publisher = ZmqPublisher(settings, batches)
    cache.listen(publisher.events)
    weakref.finalize(cache, publisher.close)  # caches are not closed
    log.info("events of the cache are published at %s, unencrypted and with the tokens of prompts", settings.endpoint)


class ZmqPublisher:
    """Sends (topic, number, batch) to all who subscribe; numbers go on by one from 0, 8 bytes, the most significant
    first.

    One thread owns the sockets. It sleeps until there are events or a request for a replay: that is a number, and is
    answered by all batches from there on that are kept, as (topic, number, batch), and a last one whose number is -1.
    """

    def __init__(self, settings: KVEventSettings, batches: Batches) -> None:
        self._batches = batches
        self._topic = settings.topic.encode()
        self._number = 0
        self._kept: deque[tuple[bytes, bytes]] = deque(maxlen=settings.buffer_steps)
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._replay: zmq.Socket[bytes] | None = None
        try:
            self._publisher = self._socket(zmq.PUB, settings.endpoint, settings.hwm)
            if settings.replay_endpoint is not None:
                self._replay = self._socket(zmq.ROUTER, settings.replay_endpoint, 0, bind=True)
        except SettingsError:
            self._context.destroy(linger=0)
            raise
        self._woken, self._waker = os.pipe()
        self.events = EventQueue(settings.max_queue_size, self._wake)
        self._thread = threading.Thread(target=self._run, name="kv-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Publishes what is left and ends. Harmless when done before."""
        if self.events.closed:
            return
        self.events.closed = True
        self._wake()
        if threading.current_thread() is not self._thread:  # the last reference to a cache may go anywhere
            self._thread.join()

    def _socket(self, kind: int, address: str, limit: int, *, bind: bool = False) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.SNDHWM, limit)
        made.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        made.setsockopt(zmq.IPV6, "[" in address)
        try:
            if bind or is_bound(address):
                made.bind(address)
            else:
                made.connect(address)
        except zmq.ZMQError as error:
            option = "replay-endpoint" if bind else "endpoint"
            raise SettingsError(f"--kv-events.{option}: cannot open {address}: {error.strerror}") from error
        return made

    def _wake(self) -> None:
        os.write(self._waker, b"\0")

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        if self._replay is not None:
            poller.register(self._replay, zmq.POLLIN)
        while not self.events.closed:
            for ready, _ in poller.poll():
                if ready == self._woken:
                    os.read(self._woken, 64)
                    time.sleep(GATHERING)
                    self._publish()
                else:
                    self._answer()
        self._publish()
        self._context.destroy(linger=LAST_WORDS_MS)
        os.close(self._woken)
        os.close(self._waker)

    def _publish(self) -> None:
        events = self.events.take()
        if not events:
            return
        number, batch = self._number.to_bytes(8, "big"), self._batches.encode(events)
        self._number += 1
        self._publisher.send_multipart((self._topic, number, batch))
        if self._replay is not None:
            self._kept.append((number, batch))

    def _answer(self) -> None:
        """Sends again what was asked for; what is no such request has no answer."""
        assert self._replay is not None
        asker, *delimiter, start = self._replay.recv_multipart()
        if len(start) != len(END) or delimiter != [b""]:
            log.debug("a request for a replay is no empty frame and 8 bytes")
            return
        for number, batch in self._kept:
            if number >= start:  # as the most significant byte comes first
                self._replay.send_multipart((asker, b"", self._topic, number, batch))
        self._replay.send_multipart((asker, b"", b"", END, b""))
