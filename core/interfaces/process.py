"""The process that plugins live in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ProcessInfo", "ProcessKind"]

ProcessKind = Literal["server", "worker", "local"]


@dataclass(slots=True, kw_only=True)
class ProcessInfo:
    """This process: the HTTP server, a worker (number `rank`), or both in one ("local").

    Who starts the process calls `exit` before it ends.
    """

    kind: ProcessKind
    rank: int = 0
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
