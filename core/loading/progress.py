"""Progress of a start that is not shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo


class NullProgress:
    """Shows nothing."""

    def phase(self, text: str) -> None:
        pass

    def advance(self, fraction: float) -> None:
        pass


class NullDisplay(NullProgress):
    """The Display of a process without a plugin that has one."""

    relay: Callable[[IO[bytes]], None] | None = None

    def clear(self) -> None:
        pass

    def ready(self, info: ModelInfo, url: str, *, local: bool) -> None:
        pass
