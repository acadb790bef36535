from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_time_by_phase_and_memory_before_and_after_a_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import startup  # type: ignore[import-not-found]

    monkeypatch.setitem(startup.load.SCENARIOS, "a", startup.load.Scenario(clients=1, requests=1, prompt=8, output=2))
    monkeypatch.setattr(sys, "argv", ["startup.py", "--runs", "1", "--load", "a", "--", "--max-length", "64"])
    startup.main()
    rows = [line.partition(" min ")[0].strip() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == "healthy after, s"
    assert "Warming up, s" in rows
    assert rows[-4:] == ["RSS, MB", "PSS, MB", "RSS after load, MB", "PSS after load, MB"]
