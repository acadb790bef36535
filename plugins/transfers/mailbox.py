"""A thread with ZMQ sockets: a ROUTER that others connect to, and a DEALER for each address that is written to."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from maxserve.interfaces.errors import SettingsError

LAST_WORDS_MS = 500  # how long what was sent last has to leave
CUT = zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED

Frames: TypeAlias = Sequence[bytes]
Peer: TypeAlias = bytes | str  # who connected, by the ROUTER's name for it; an address that was connected to


class Letter(msgspec.Struct, frozen=True):
    """What came, and from whom; no `frames` where an address cannot be reached, or not any more."""

    peer: Peer
    frames: Frames | None


class Mailbox:
    """Sends and receives frames. `send`, `drop` and `receive` are for one thread, which `wake` is called for.

    `answer`, in the mailbox's own thread, may answer what peers send that connected here, before anyone receives it.
    """

    def __init__(
        self,
        bind: str | None,
        wake: Callable[[], None],
        answer: Callable[[Frames], Frames | None] | None = None,
        option: str = "--transfers.bind",
    ) -> None:
        self._wake, self._answer = wake, answer
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._router: zmq.Socket[bytes] | None = None
        self.address = ""
        if bind is not None:
            self._router = self._made(zmq.ROUTER, bind)
            try:
                self._router.bind(bind)
            except zmq.ZMQError as error:
                self._context.destroy(linger=0)
                raise SettingsError(f"{option}: cannot open {bind}: {error.strerror}; name another address") from error
            self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._dealers: dict[str, tuple[zmq.Socket[bytes], zmq.Socket[bytes]]] = {}  # with their monitors
        self._leaving: deque[tuple[Peer, Frames | None]] = deque()
        self._came: deque[Letter] = deque()
        self._closed = False
        self._woken, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="kv-transfers", daemon=True)
        self._thread.start()

    def send(self, peer: Peer, frames: Frames) -> None:
        """To an address, or to who sent something. What cannot be delivered to the latter is lost."""
        self._leaving.append((peer, frames))
        self._stir()

    def drop(self, address: str) -> None:
        """Ends the connection to an address; the next `send` makes another one."""
        self._leaving.append((address, None))
        self._stir()

    @property
    def waiting(self) -> bool:
        """Whether `receive` has something."""
        return bool(self._came)

    def receive(self) -> list[Letter]:
        """What came since this was last asked for."""
        return [self._came.popleft() for _ in range(len(self._came))]

    def close(self) -> None:
        """Sends what is left and ends. Harmless when done before."""
        if not self._closed:
            self._closed = True
            self._stir()
            self._thread.join()

    def _stir(self) -> None:
        os.write(self._waker, b"\0")

    def _made(self, kind: int, address: str) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        for option in (zmq.SNDHWM, zmq.RCVHWM):
            made.setsockopt(option, 0)
        made.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        made.setsockopt(zmq.IPV6, "[" in address)
        return made

    # --- in the mailbox's thread ---------------------------------------------------------------------------------

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._woken, zmq.POLLIN)
        if self._router is not None:
            poller.register(self._router, zmq.POLLIN)
        while True:
            for ready, _ in poller.poll():
                if ready == self._woken:
                    os.read(self._woken, 4096)
                    self._deliver(poller)
                elif ready is self._router:
                    self._take_from_router()
                else:
                    self._take_from_dealer(ready, poller)
            if self._closed and not self._leaving:
                break
        for dealer, monitor in self._dealers.values():
            dealer.disable_monitor()
            monitor.close(linger=0)
        self._context.destroy(linger=LAST_WORDS_MS)
        os.close(self._woken)
        os.close(self._waker)

    def _deliver(self, poller: zmq.Poller) -> None:
        while self._leaving:
            peer, frames = self._leaving.popleft()
            if isinstance(peer, bytes):
                assert self._router is not None, "who has a name connected to the router"
                assert frames is not None, "who connected here is not dropped"
                self._router.send_multipart([peer, *frames], copy=False)
            elif frames is None:
                self._disconnect(peer, poller)
            else:
                self._dealer(peer, poller).send_multipart(list(frames), copy=False)

    def _dealer(self, address: str, poller: zmq.Poller) -> zmq.Socket[bytes]:
        if address not in self._dealers:
            dealer = self._made(zmq.DEALER, address)
            monitor = dealer.get_monitor_socket(CUT)
            dealer.connect(address)
            self._dealers[address] = dealer, monitor
            poller.register(dealer, zmq.POLLIN)
            poller.register(monitor, zmq.POLLIN)
        return self._dealers[address][0]

    def _disconnect(self, address: str, poller: zmq.Poller) -> None:
        if address in self._dealers:
            dealer, monitor = self._dealers.pop(address)
            poller.unregister(dealer)
            poller.unregister(monitor)
            dealer.disable_monitor()
            monitor.close(linger=0)
            dealer.close(linger=0)

    def _take_from_router(self) -> None:
        assert self._router is not None
        peer, *frames = self._router.recv_multipart()
        given = None if self._answer is None else self._answer(frames)
        if given is not None:
            self._router.send_multipart([peer, *given], copy=False)
        else:
            self._put(Letter(peer, frames))

    def _take_from_dealer(self, ready: object, poller: zmq.Poller) -> None:
        for address, (dealer, monitor) in list(self._dealers.items()):
            if ready is dealer:
                self._put(Letter(address, dealer.recv_multipart()))
            elif ready is monitor:
                recv_monitor_message(monitor)
                self._disconnect(address, poller)
                self._put(Letter(address, None))

    def _put(self, letter: Letter) -> None:
        self._came.append(letter)
        self._wake()
