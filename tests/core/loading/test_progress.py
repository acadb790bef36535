from __future__ import annotations

import io
import logging
import os
import re
import time
from collections.abc import Callable

import pytest

from maxserve.core.loading.progress import LogProgress, NullProgress, show_progress
from maxserve.core.runtime.terminal import TerminalHandler, relay


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with show_progress(stream) as progress:
        progress.advance(0.5)  # before any phase: nothing to show yet
        progress.phase("Fetching weights")
        progress.advance(0.25)
        progress.phase("Loading weights")
        progress.advance(2.0)
    shown = stream.getvalue()
    assert "Fetching weights" in shown
    assert "Loading weights" in shown
    assert "100%" in shown
    assert shown.rstrip().endswith("\x1b[2K"), "nothing of the bars stays"


def test_log_lines_come_above_the_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    handler = TerminalHandler(stream)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with show_progress(stream) as progress:
            progress.phase("Loading weights")
            handler.handle(logging.makeLogRecord({"msg": "linear method: [native] :smile:", "levelno": logging.INFO}))
            read, write = os.pipe()
            relay(os.fdopen(read, "rb"))
            os.write(write, b"from the worker\n")
            os.close(write)
            until(lambda: "from the worker" in stream.getvalue())
    finally:
        root.removeHandler(handler)
    screen = left_on_screen(stream.getvalue())
    assert screen == ["linear method: [native] :smile:", "from the worker"]


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


def test_other_streams_get_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    with caplog.at_level(logging.INFO, "maxserve.model"), show_progress(stream) as progress:
        progress.phase("Loading weights")
        progress.advance(0.5)
    assert caplog.messages == ["Loading weights"]
    assert stream.getvalue() == ""


def test_long_phases_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    progress = LogProgress(interval=10.0, clock=lambda: now[0])
    with caplog.at_level(logging.INFO, "maxserve.model"):
        progress.phase("Fetching")
        for second in range(1, 26):
            now[0] = float(second)
            progress.advance(second / 25)
    assert caplog.messages == ["Fetching", "Fetching: 40 %", "Fetching: 80 %"]


def test_null_progress_is_silent(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        NullProgress().phase("x")
        NullProgress().advance(1.0)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []
