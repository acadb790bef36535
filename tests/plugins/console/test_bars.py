from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from maxserve.core.interfaces.process import ProcessInfo
from maxserve.plugins.console import maxserve_process_start
from maxserve.plugins.console.bars import BarsDisplay, Screen
from maxserve.plugins.console.lines import LinesDisplay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()


@pytest.fixture
def handler(terminal: Terminal) -> Iterator[logging.StreamHandler[Terminal]]:
    handler = logging.StreamHandler(terminal)
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def test_bars(terminal: Terminal) -> None:
    display = BarsDisplay(terminal)
    display.advance(0.5)  # before any phase: nothing to show yet
    display.phase("Fetching weights")
    display.advance(0.25)
    display.phase("Loading weights")
    display.advance(2.0)
    display.clear()
    display.clear()
    shown = terminal.getvalue()
    assert "Fetching weights" in shown
    assert "Loading weights" in shown
    assert "100%" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "nothing of the bars stays"
    assert shown.rfind("\x1b[?25l") <= shown.rfind("\x1b[?25h"), "the cursor is shown again"
    display.phase("Loading weights again")
    display.close()
    assert "again" in terminal.getvalue()


def test_lines_come_above_the_bars(terminal: Terminal, handler: logging.StreamHandler[Terminal]) -> None:
    display = BarsDisplay(terminal)
    display.phase("Loading weights")
    handler.handle(logging.makeLogRecord({"msg": "linear method: [native] :smile:", "levelno": logging.INFO}))
    read, write = os.pipe()
    assert display.relay is not None
    display.relay(os.fdopen(read, "rb"))
    os.write(write, b"from the worker\n")
    os.close(write)
    until(lambda: "from the worker" in terminal.getvalue())
    display.close()
    assert left_on_screen(terminal.getvalue()) == ["linear method: [native] :smile:", "from the worker"]
    assert handler.stream is terminal


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def left_on_screen(written: str) -> list[str]:
    """The lines that are left of what was written: carriage returns, moves upwards and erased lines are followed."""
    lines, row = [""], 0
    for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if token == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif token == "\x1b[2K":
            lines[row] = ""
        elif token == "\x1b[1A":
            row -= 1
        elif not token.startswith("\x1b") and token != "\r":
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.parametrize(("stream", "display"), [(Terminal(), BarsDisplay), (io.StringIO(), LinesDisplay)])
def test_a_server_has_a_display(stream: io.StringIO, display: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    process = ProcessInfo(kind="server")
    maxserve_process_start(process)
    assert isinstance(process.display, display)
    before = process.display
    maxserve_process_start(process)
    assert process.display is before, "another plugin's is left"
    process.exit()


def test_a_worker_has_none() -> None:
    process = ProcessInfo(kind="worker")
    maxserve_process_start(process)
    assert process.display is None


class GoingScreen(Screen):
    """One whose bars are taken away by another thread right after they are looked up."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name == "console":
            self.__dict__[name] = None
        return found


def test_a_line_comes_while_the_bars_go(terminal: Terminal) -> None:
    """Else the thread of a worker's lines would end, and the worker wait for ever to say more."""
    screen = GoingScreen(terminal)
    screen.console = Console(file=terminal)
    screen.write("a line\n")
    assert terminal.getvalue() == "a line\n"
