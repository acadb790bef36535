"""Progress of a start, shown or logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, TextIO

from maxserve.core.interfaces.progress import Progress
from maxserve.core.runtime.terminal import handlers

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

log = logging.getLogger("maxserve.model")


class NullProgress:
    """Shows nothing."""

    def phase(self, text: str) -> None:
        pass

    def advance(self, fraction: float) -> None:
        pass


class LogProgress:
    """Log lines: one per phase, and one every `interval` seconds while it takes long."""

    def __init__(self, *, interval: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._clock = clock
        self._text = ""
        self._last = clock()

    def phase(self, text: str) -> None:
        self._text = text
        self._last = self._clock()
        log.info("%s", text)

    def advance(self, fraction: float) -> None:
        if fraction < 1 and self._clock() - self._last >= self._interval:
            self._last = self._clock()
            log.info("%s: %.0f %%", self._text, 100 * fraction)


class BarProgress:
    """One bar per phase, drawn by rich; the bar of a phase that is done goes, its successor says enough."""

    def __init__(self, display: RichProgress) -> None:
        self._display = display
        self._task = None if not display.task_ids else display.task_ids[-1]

    def phase(self, text: str) -> None:
        if self._task is not None:
            self._display.remove_task(self._task)
        self._task = self._display.add_task(text, total=1.0)

    def advance(self, fraction: float) -> None:
        if self._task is not None:
            self._display.update(self._task, completed=min(1.0, fraction))


@contextmanager
def show_progress(stream: TextIO) -> Iterator[Progress]:
    """Bars while the block runs when `stream` is a terminal, log lines otherwise.

    Log lines of this process come above the bars, and nothing of the bars stays.
    """
    if not stream.isatty():
        yield LogProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    console = Console(file=stream)
    with ExitStack() as stack:
        display = stack.enter_context(RichProgress(*columns, console=console, transient=True))
        for handler in handlers():
            stack.enter_context(handler.above(console))
        yield BarProgress(display)
