"""The transport `tcp`: pieces over ZMQ, in frames of a mebibyte."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from maxserve.interfaces.transport import TransportContext
from maxserve.plugins.transfers.mailbox import Frames, Mailbox

FRAME = 1 << 20  # bytes


class TcpTransport:
    """Offers pieces on a port of its own, and pulls those of others."""

    wakes = True

    def __init__(self, context: TransportContext) -> None:
        self._offers: dict[bytes, bytes] = {}
        self._names = count()
        self._pulls: dict[tuple[str, bytes], int] = {}
        self._numbers = count()
        bind = None if context.host is None else f"tcp://{context.host}:*"
        self._mailbox = Mailbox(bind, context.wake, self._serve)

    @property
    def peer(self) -> bytes:
        return self._mailbox.address.rpartition(":")[2].encode()

    def offer(self, data: bytes) -> bytes:
        where = str(next(self._names)).encode()
        self._offers[where] = data
        return where

    def withdraw(self, where: bytes) -> None:
        self._offers.pop(where, None)

    def pull(self, host: str, peer: bytes, where: bytes) -> int:
        address, number = f"tcp://{host}:{peer.decode()}", next(self._numbers)
        self._pulls[address, where] = number
        self._mailbox.send(address, [where])
        return number

    def poll(self) -> Sequence[tuple[int, bytes | None]]:
        done: list[tuple[int, bytes | None]] = []
        for letter in self._mailbox.receive():
            assert isinstance(letter.peer, str), "what peers ask is answered in the mailbox's thread"
            if letter.frames is None:
                lost = [key for key in self._pulls if key[0] == letter.peer]
                done += [(self._pulls.pop(key), None) for key in lost]
                continue
            where, *frames = letter.frames
            number = self._pulls.pop((letter.peer, where), None)
            if number is not None:
                done.append((number, b"".join(frames) if frames else None))
        return done

    def close(self) -> None:
        self._mailbox.close()

    def _serve(self, asked: Frames) -> Frames:
        """The piece that was asked for behind its name; the name alone where it is offered no longer."""
        data = memoryview(self._offers.get(asked[0], b""))
        return [asked[0], *(bytes(data[start : start + FRAME]) for start in range(0, len(data), FRAME))]
