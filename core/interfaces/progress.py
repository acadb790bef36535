"""Progress of a start."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress"]


class Progress(Protocol):
    """Hears what is going on. May be called from any thread."""

    def phase(self, text: str) -> None:
        """A new piece of work begins and the one before is done: "Loading weights"."""

    def advance(self, fraction: float) -> None:
        """This much of the phase is done, from 0 to 1."""
