"""The process that plugins live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal, Protocol

from maxserve.core.interfaces.progress import Progress

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo

__all__ = ["Display", "ProcessInfo", "ProcessKind"]

ProcessKind = Literal["server", "worker", "local"]


class Display(Progress, Protocol):
    """What the operator sees of the start of a server. Called by its main thread, but for `relay`.

    `relay`, where there is one, gets the stream of what a worker writes to standard error, to show it; else the worker
    writes there by itself.
    """

    relay: Callable[[IO[bytes]], None] | None

    def clear(self) -> None:
        """Takes off what shows progress, until the next phase; harmless when nothing is shown."""

    def ready(self, info: ModelInfo, url: str, *, local: bool) -> None:
        """The model is served at `url`, which no other machine reaches where it is `local`."""


@dataclass(slots=True, kw_only=True)
class ProcessInfo:
    """This process: the HTTP server, a worker (number `rank`), or both in one ("local").

    A plugin may give a server its `display`. Who starts the process calls `exit` before it ends.
    """

    kind: ProcessKind
    rank: int = 0
    display: Display | None = None
    _callbacks: list[Callable[[], object]] = field(default_factory=list)

    def on_exit(self, callback: Callable[[], object]) -> None:
        """Has `callback` called when the process ends in good order; the last registered goes first."""
        self._callbacks.append(callback)

    def exit(self) -> None:
        """Calls what was registered, every callback once, then raises what the first failing one raised."""
        failure: Exception | None = None
        while self._callbacks:
            try:
                self._callbacks.pop()()
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure
