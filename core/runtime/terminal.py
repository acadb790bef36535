"""The one writer to the terminal: log lines and what worker processes say go above the bars that rich draws."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class TerminalHandler(logging.StreamHandler[TextIO]):
    """Writes log records to a stream, or through the console that draws bars there at the moment."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console: Console | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write_line(self.format(record))
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write_line(self, text: str) -> None:
        console = self._console
        if console is not None:
            console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)
        else:
            self.stream.write(text + self.terminator)
            self.flush()

    @contextmanager
    def above(self, console: Console) -> Iterator[None]:
        """Lines go through `console` while the block runs."""
        before, self._console = self._console, console
        try:
            yield
        finally:
            self._console = before


def handlers() -> list[TerminalHandler]:
    """The handlers of this process's log that write to a terminal or where one could be."""
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, TerminalHandler)]


def relay(lines: IO[bytes]) -> None:
    """Writes, from a thread of its own, each line that another process says, until it says no more."""

    def write() -> None:
        with lines:
            for line in lines:
                text = line.decode(errors="replace").rstrip("\r\n")
                for handler in handlers():
                    handler.write_line(text)

    threading.Thread(target=write, name="relay-to-terminal", daemon=True).start()


def is_terminal() -> bool:
    """Whether standard error is a terminal, on which bars may be drawn."""
    return bool(sys.stderr is not None and sys.stderr.isatty())
