"""Programs and commands wait as the server's worker does, unless the environment says otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import ModuleType

import pytest

from maxserve.core.runtime.openmp import WAITING, wait_asleep

READ = "import json, os; print(json.dumps({name: os.environ.get(name) for name in %r}))" % list(WAITING)  # noqa: UP031


def read(code: str, **chosen: str) -> dict[str, str | None]:
    """The variables in a program after its first lines, `code`."""
    environ = {name: value for name, value in os.environ.items() if name not in WAITING} | chosen
    run = subprocess.run([sys.executable, "-c", f"{code}\n{READ}"], env=environ, capture_output=True, check=True)
    found: dict[str, str | None] = json.loads(run.stdout)
    return found


def test_the_engine_in_a_program_waits_asleep() -> None:
    assert read("from maxserve import LLM") == WAITING


def test_what_is_chosen_stays() -> None:
    chosen = read(
        "from maxserve.core.runtime.openmp import wait_asleep\nassert wait_asleep()", OMP_WAIT_POLICY="ACTIVE"
    )
    assert chosen == {**WAITING, "OMP_WAIT_POLICY": "ACTIVE"}


def test_too_late_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # as if it was imported
    environ: dict[str, str] = {}
    assert not wait_asleep(environ)
    assert environ == {}
