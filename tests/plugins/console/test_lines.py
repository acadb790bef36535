from __future__ import annotations

import logging

import pytest

from maxserve.core.interfaces.engine import ModelInfo
from maxserve.plugins.console.lines import LinesDisplay

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


def test_each_phase_is_one_line(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    display = LinesDisplay()
    with caplog.at_level(logging.INFO):
        display.phase("loading weights")
        for percent in range(100):
            display.advance(percent / 100)
        display.phase("warming up")
        display.clear()
    assert caplog.messages == ["loading weights", "warming up"]
    assert capsys.readouterr() == ("", "")


def test_long_phases_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    display = LinesDisplay(interval=10.0, clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        display.phase("Fetching")
        for second in range(1, 26):
            now[0] = float(second)
            display.advance(second / 25)
    assert caplog.messages == ["Fetching", "Fetching: 40 %", "Fetching: 80 %"]


@pytest.mark.parametrize("local", [True, False])
def test_what_is_served_and_where(local: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        LinesDisplay().ready(INFO, "http://host:80", local=local)
    for fact in ("acme/tiny", "LlamaForCausalLM", "3.4 million", "bfloat16", "cpu", "2,048 tokens"):
        assert fact in caplog.text
    assert "Server ready on http://host:80 (Press CTRL+C to quit)" in caplog.text
    assert ("--host 0.0.0.0 opens it to the network" in caplog.text) == local
