from __future__ import annotations

import io
import logging
from contextlib import closing

import pytest

from maxserve.core.interfaces.engine import ModelInfo
from maxserve.core.runtime import ports
from maxserve.core.runtime.banner import StartDisplay, announce

INFO = ModelInfo(
    name="acme/tiny",
    path="/models/tiny",
    architecture="LlamaForCausalLM",
    max_length=2048,
    vocab_size=32,
    eos_token_ids=(),
    dtype="bfloat16",
    device="cpu",
    parameters=3_400_000,
    max_batch_size=8,
    created=0,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_terminal_shows_the_phases_and_gets_its_cursor_back() -> None:
    terminal = Terminal()
    display = StartDisplay(terminal)
    display.show("loading weights", None)
    display.show("loading weights", 0.5)
    display.clear()
    display.clear()
    assert "loading weights" in terminal.getvalue()
    hidden, shown = terminal.getvalue().rfind("\033[?25l"), terminal.getvalue().rfind("\033[?25h")
    assert hidden <= shown


def test_elsewhere_each_phase_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    display = StartDisplay(stream)
    with caplog.at_level(logging.INFO):
        for percent in range(100):
            display.show("loading weights", percent / 100)
        display.show("warming up", None)
        display.clear()
        display.show("loading weights", None)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["loading weights", "warming up", "loading weights"]
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("host", "hint"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_banner_says_what_is_served_and_where(host: str, hint: bool, caplog: pytest.LogCaptureFixture) -> None:
    with closing(ports.listen(host, 0)) as listening, caplog.at_level(logging.INFO):
        port = listening.getsockname()[1]
        announce(INFO, listening)
    for told in ("acme/tiny", "LlamaForCausalLM", "3.4 million", "cpu", "2,048 tokens"):
        assert told in caplog.text
    assert f"Server ready on http://{host}:{port} (Press CTRL+C to quit)" in caplog.text
    assert ("--host 0.0.0.0 opens it to the network" in caplog.text) == hint
