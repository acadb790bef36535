"""A short run with changes of adapters, and what such a run finds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

# Whose requests get the first of the adapters instead of the one that they name.
MIXES_NAMES = """
from maxserve.core.hookspecs import hookimpl

@hookimpl
def maxserve_process_start(process):
    if process.kind == "worker":
        from maxserve.adapters import SlotPool
        named = SlotPool.named
        SlotPool.named = lambda self, name: named(self, next(iter(self._by_name)) if name in self._by_name else name)
"""


@pytest.fixture
def churn(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import adapter_churn  # type: ignore[import-not-found]

    module: ModuleType = adapter_churn
    return module


def run(churn: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["adapter_churn.py", "--changes", "30", *options])
    status: int = churn.main()
    return status


def test_no_request_fails_and_no_text_is_of_another_generation(
    churn: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(churn, monkeypatch)
    printed = capsys.readouterr().out
    assert status == 0, printed
    kinds = {line.split()[0] for line in printed.splitlines()}
    assert kinds >= {"load", "replace", "unload", "texts:", "between"}


def test_a_text_of_another_adapter_is_found(
    churn: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mixes.py").write_text(MIXES_NAMES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert run(churn, monkeypatch, "--", "--plugin", "mixes") == 1
    assert "VIOLATION" in capsys.readouterr().out
