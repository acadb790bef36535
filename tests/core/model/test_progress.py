from __future__ import annotations

import io
import logging

import pytest

from maxserve.core.model.progress import LogProgress, NullProgress, show_progress


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
    assert shown.count("100%") >= 2


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
