"""Checks of transports.

class TestAcme(TransportChecks):
    transport = "acme"
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, ClassVar

from maxserve.core.interfaces.transport import MovesPieces, Transport, TransportContext
from maxserve.core.registry.contracts import contract_fault
from maxserve.testing.resolve import load, resolve

__all__ = ["TransportChecks"]

HOST = "127.0.0.1"
PATIENCE = 10.0  # seconds until a piece must have come


class TransportChecks:
    """Subclass it and name a registered `transport`, or give the `component` itself; `sections` are settings."""

    transport: ClassVar[str] = ""
    component: ClassVar[Transport | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}

    @contextmanager
    def made(self, *hosts: str | None) -> Iterator[list[Ended]]:
        """One end for each of `hosts`."""
        build = load(resolve(Transport, self.transport, self.component).build)
        with ExitStack() as stack:
            yield [stack.enter_context(closing(Ended(build, self.sections, host))) for host in hosts]

    # --- checks -------------------------------------------------------------------------------------------------

    def test_keeps_the_contract(self) -> None:
        with self.made(HOST, None) as ends:
            assert [contract_fault("transport", end.built) for end in ends] == [None, None]

    def test_pieces_come_as_they_were_offered(self) -> None:
        pieces = [b"", b"a", bytes(range(256)) * 9000, b"z" * (1 << 20)]
        with self.made(HOST, None) as (offers, pulls):
            where = [offers.built.offer(piece) for piece in pieces]
            numbers = [pulls.built.pull(HOST, offers.built.peer, each) for each in where]
            assert len(set(numbers)) == len(pieces)
            found = pulls.collected(numbers)
            assert [found[number] or b"" for number in numbers] == pieces

    def test_each_piece_is_said_once(self) -> None:
        with self.made(HOST, None) as (offers, pulls):
            number = pulls.built.pull(HOST, offers.built.peer, offers.built.offer(b"once"))
            assert pulls.collected([number]) == {number: b"once"}
            assert not pulls.built.poll()

    def test_a_piece_may_be_pulled_by_several(self) -> None:
        with self.made(HOST, None, None) as (offers, one, other):
            where = offers.built.offer(b"for both")
            for end in (one, other):
                number = end.built.pull(HOST, offers.built.peer, where)
                assert end.collected([number])[number] == b"for both"

    def test_a_withdrawn_piece_cannot_be_had(self) -> None:
        with self.made(HOST, None) as (offers, pulls):
            kept, gone = offers.built.offer(b"kept"), offers.built.offer(b"gone")
            offers.built.withdraw(gone)
            offers.built.withdraw(gone)  # harmless when done before
            numbers = [pulls.built.pull(HOST, offers.built.peer, where) for where in (gone, kept)]
            assert pulls.collected(numbers) == {numbers[0]: None, numbers[1]: b"kept"}

    def test_a_peer_that_is_gone_is_told(self) -> None:
        with self.made(HOST, None) as (offers, pulls):
            peer, where = offers.built.peer, offers.built.offer(b"x")
            number = pulls.built.pull(HOST, peer, where)
            pulls.collected([number])
            offers.close()
            number = pulls.built.pull(HOST, peer, where)
            assert pulls.collected([number]) == {number: None}


class Ended:
    """One end of a transport, and what wakes who uses it."""

    def __init__(self, build: Any, sections: dict[type[Any], Any], host: str | None) -> None:
        self._woken = threading.Event()
        self._open = True
        self.built: MovesPieces = build(TransportContext(sections=sections, host=host, wake=self._woken.set))

    def collected(self, numbers: list[int]) -> dict[int, bytes | None]:
        """What became of these pulls."""
        found: dict[int, bytes | None] = {}
        end = time.monotonic() + PATIENCE
        while not found.keys() >= set(numbers):
            assert time.monotonic() < end, f"of the pulls {numbers} only {sorted(found)} are done"
            self._woken.wait(0.05 if self.built.wakes else 0.002)
            self._woken.clear()
            found.update(self.built.poll())
        return found

    def close(self) -> None:
        if self._open:
            self._open = False
            self.built.close()
