"""Transports: how keys and values of prompts come from one server to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context

__all__ = ["MovesPieces", "Transport", "TransportContext"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport(Component):
    """A way for pieces of memory to another server's worker. `build(TransportContext)` gives a MovesPieces."""

    kind: ClassVar[str] = "transport"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportContext(Context):
    """`host` is the address of this machine that others reach, None where it offers nothing.

    `wake()` has the engine's thread look at `poll` soon; it may be called from any thread.
    """

    host: str | None
    wake: Callable[[], None]


class MovesPieces(Protocol):
    """Offers pieces, and pulls those of others. `peer` is what the others must know of it, and travels to them.

    One thread uses it. `wakes`: it calls `wake` when pieces are there; else it is asked every few milliseconds.
    """

    wakes: bool
    peer: bytes

    def offer(self, data: bytes) -> bytes:
        """Lets others pull `data` until it is withdrawn; returns where they find it."""
        ...

    def withdraw(self, where: bytes) -> None: ...
    def pull(self, host: str, peer: bytes, where: bytes) -> int:
        """Begins to get a piece from a peer on a host; returns a number for it."""
        ...

    def poll(self) -> Sequence[tuple[int, bytes | None]]:
        """The pieces that have come, by number, each once; None for one that cannot be had."""
        ...

    def close(self) -> None: ...
