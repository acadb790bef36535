"""The start of a server in bars on a terminal, and lines above them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, TextIO

from maxserve.interfaces.engine import ModelInfo
from maxserve.plugins.console.lines import announce

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class Screen:
    """The one writer to a terminal, as a stream: lines go above the bars that a console draws there at the moment."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.console: Console | None = None

    def write(self, text: str) -> None:
        console = self.console  # which another thread takes away when the start is over
        if console is None:
            self.stream.write(text)
        else:
            console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)

    def flush(self) -> None:
        self.stream.flush()

    def relay(self, lines: IO[bytes]) -> None:
        """Writes, from a thread of its own, each line that another process says, until it says no more."""

        def write() -> None:
            with lines:
                for line in lines:
                    self.write(line.decode(errors="replace").rstrip("\r\n") + "\n")
                    self.flush()

        threading.Thread(target=write, name="relay-to-terminal", daemon=True).start()


class BarsDisplay:
    """One bar per phase; the bar of a phase that is done goes, its successor says enough.

    The log lines that go to the `stream` come above the bars, until `close`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._screen = Screen(stream)
        self.relay: Callable[[IO[bytes]], None] | None = self._screen.relay
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        handlers = [each for each in logging.getLogger().handlers if isinstance(each, logging.StreamHandler)]
        self._handlers = [each for each in handlers if each.stream is stream]
        for handler in self._handlers:
            handler.setStream(self._screen)

    def phase(self, text: str) -> None:
        bars = self._bars or self._draw()
        if self._task is not None:
            bars.remove_task(self._task)
        self._task = bars.add_task(text, total=1.0)

    def _draw(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        console = Console(file=self._screen.stream)
        self._bars = Progress(*columns, console=console, transient=True)
        self._screen.console = console
        self._bars.start()
        return self._bars

    def advance(self, fraction: float) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, completed=min(1.0, fraction))

    def clear(self) -> None:
        bars, self._bars, self._task = self._bars, None, None
        if bars is not None:
            bars.stop()
            self._screen.console = None

    def ready(self, info: ModelInfo, url: str, *, local: bool) -> None:
        announce(info, url, local=local)

    def close(self) -> None:
        """Leaves the terminal to others."""
        self.clear()
        for handler in self._handlers:
            handler.setStream(self._screen.stream)
