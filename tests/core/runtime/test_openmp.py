"""Programs and commands wait as the server's worker does, unless the environment says otherwise."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from maxserve.core.runtime.openmp import WAITING

READ = "import json, os; print(json.dumps({name: os.environ.get(name) for name in %r}))" % list(WAITING)  # noqa: UP031


@pytest.mark.parametrize(
    "load",
    ["from maxserve import LLM", "import maxserve; maxserve.LLM"],
)
def test_the_engine_in_a_program_waits_asleep(load: str) -> None:
    environ = {name: value for name, value in os.environ.items() if name not in WAITING}
    run = subprocess.run([sys.executable, "-c", f"{load}\n{READ}"], env=environ, capture_output=True, check=True)
    assert json.loads(run.stdout) == WAITING


def test_what_is_chosen_stays() -> None:
    environ = {**os.environ, "OMP_WAIT_POLICY": "ACTIVE"}
    run = subprocess.run(
        [sys.executable, "-c", f"from maxserve import LLM\n{READ}"], env=environ, capture_output=True, check=True
    )
    assert json.loads(run.stdout)["OMP_WAIT_POLICY"] == "ACTIVE"


def test_too_late_changes_nothing() -> None:
    code = f"import torch\nfrom maxserve.core.runtime.openmp import wait_asleep\nassert not wait_asleep()\n{READ}"
    environ = {name: value for name, value in os.environ.items() if name not in WAITING}
    run = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, check=True)
    assert set(json.loads(run.stdout).values()) == {None}
