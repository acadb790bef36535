"""A short soak of a live server, and what a soak finds."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

LOSES_A_PAGE = """
from maxserve.core.hookspecs import hookimpl

@hookimpl
def maxserve_process_start(process):
    if process.kind == "worker":
        from maxserve.plugins.cache.paged.pool import PagePool
        give, calls = PagePool.give, iter(range(10**6))
        PagePool.give = lambda self, pages: give(self, pages[1:] if next(calls) == 20 else pages)
"""


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import soak  # type: ignore[import-not-found]

    module: ModuleType = soak
    return module


def run(soak: ModuleType, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr(sys, "argv", ["soak.py", *options])
    status: int = soak.main()
    return status


def test_a_server_stays_well_under_mixed_load(
    soak: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = run(soak, monkeypatch, "--requests", "200")
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "no violation" in printed
    kinds = {line.split()[0] for line in printed.splitlines() if line}
    assert kinds >= {"greedy", "seeded", "short", "long", "shared", "several", "chat", "leaver", "impatient", "wrong"}


def test_a_lost_page_is_found(
    soak: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "loses_a_page.py").write_text(LOSES_A_PAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    status = run(soak, monkeypatch, "--requests", "30", "--", "--plugin", "loses_a_page")
    printed = capsys.readouterr().out
    assert status == 1, printed
    assert "the server logs: AssertionError: pages are lost" in printed


def healthy(soak: ModuleType) -> Any:
    numbers = {"maxserve_cache_num_used_blocks": 0.0, "vllm:num_preemptions_total": 3.0}
    record = soak.Record(metrics=numbers, memory=[(100, 1000)] * 9)
    for _ in range(2):
        record.take(*fixed_answer(soak))
    return record


def fixed_answer(soak: ModuleType, **changes: Any) -> tuple[Any, Any]:
    call = soak.Call(kind="greedy", body={"max_tokens": 4}, known="a")
    return call, soak.Answer(**{"status": 200, "tokens": 4, "texts": {0: "text"}, **changes})


def test_nothing_is_said_of_a_healthy_run(soak: ModuleType) -> None:
    assert soak.violations(healthy(soak), judge_memory=True) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"texts": {0: "other"}}, "another text"),
        ({"tokens": 3}, "3 tokens instead of 4"),
        ({"status": 500}, "status 500"),
        ({"error": "boom"}, "boom"),
    ],
)
def test_a_bad_answer_is_said(soak: ModuleType, changes: dict[str, Any], said: str) -> None:
    record = healthy(soak)
    record.take(*fixed_answer(soak, **changes))
    (found,) = soak.violations(record, judge_memory=True)
    assert said in found


@pytest.mark.parametrize(("status", "found"), [(200, 1), (400, 0), (422, 0), (500, 1)])
def test_a_wrong_request_must_be_refused(soak: ModuleType, status: int, found: int) -> None:
    record = healthy(soak)
    record.take(soak.Call(kind="wrong", body={}, refused=True), soak.Answer(status=status, error="why"))
    assert len(soak.violations(record, judge_memory=True)) == found


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("maxserve_cache_num_used_blocks", 2.0, "2 pages are held"), ("vllm:num_preemptions_total", 0.0, "small enough")],
)
def test_a_bad_state_of_the_cache_is_said(soak: ModuleType, name: str, value: float, said: str) -> None:
    record = healthy(soak)
    record.metrics[name] = value
    (found,) = soak.violations(record, judge_memory=True)
    assert said in found


@pytest.mark.parametrize(
    ("sizes", "flat"), [([5, 900, 900, 100, 100, 101, 101, 102, 101], True), ([100] * 6 + [103] * 3, False)]
)
def test_memory_is_judged_after_the_first_third(soak: ModuleType, sizes: list[int], flat: bool) -> None:
    record = healthy(soak)
    record.memory = [(100, size) for size in sizes]
    found = soak.violations(record, judge_memory=True)
    assert found == [] if flat else ["worker" in line for line in found] == [True]
    assert soak.violations(record, judge_memory=False) == []


def test_a_server_that_does_not_start_is_a_violation(
    soak: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(soak, monkeypatch, "--requests", "1", "--", "--max-length", "0") == 1
    assert "VIOLATION: 1 x the server is not as it should be" in capsys.readouterr().out
