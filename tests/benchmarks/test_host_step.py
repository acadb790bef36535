from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "host_step.py"


def test_every_case_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    options = "--running 2 3 --waiting 0 5 --temperature 0 0.5 --steps 3 --prompt 20"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options.split()])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["running", "waiting", "temperature"]
    cases = [tuple(row.split()[:3]) for row in rows]
    assert cases == [(r, w, t) for r in "23" for w in "05" for t in ("0.0", "0.5")]
