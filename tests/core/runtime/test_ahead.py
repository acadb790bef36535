from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from maxserve.core.runtime.ahead import Ahead, ahead_of, worker_environ
from maxserve.core.runtime.openmp import WAITING


@pytest.fixture
def environ() -> dict[str, str]:
    return worker_environ(WAITING)


@pytest.fixture
def ahead(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Ahead]:
    monkeypatch.setattr("sys.stderr", None)  # no terminal, whatever the tests run in
    begun = Ahead()
    yield begun
    begun.end()


def worker() -> psutil.Process | None:
    """The child of this process that is a worker."""
    children = psutil.Process().children()
    return next((child for child in children if "maxserve.core.runtime.worker" in child.cmdline()), None)


@pytest.mark.parametrize("words", [["--version"], ["list"], ["serve", "--help"], ["generate", "serve"], []])
def test_what_starts_no_server_begins_no_worker(words: list[str]) -> None:
    assert ahead_of(words) is None


def test_it_is_taken_once(ahead: Ahead, environ: dict[str, str]) -> None:
    process = ahead.take(environ, False)
    assert process is not None
    assert ahead.take(environ, False) is None
    ahead.end()
    assert process.poll() is None, "who took it owns it"
    process.kill()
    process.communicate()


def test_one_with_other_variables_is_not_taken(ahead: Ahead, environ: dict[str, str]) -> None:
    assert ahead.take({**environ, "CUDA_VISIBLE_DEVICES": "7"}, False) is None


def test_one_that_writes_to_the_terminal_is_not_taken_for_a_relay(ahead: Ahead, environ: dict[str, str]) -> None:
    assert ahead.take(environ, True) is None


def test_one_that_was_not_taken_ends(ahead: Ahead) -> None:
    process = worker()
    assert process is not None
    ahead.end()
    assert not process.is_running()


def test_one_that_died_is_not_taken(ahead: Ahead, environ: dict[str, str]) -> None:
    process = worker()
    assert process is not None
    process.kill()
    psutil.wait_procs([process], timeout=10)
    assert ahead.take(environ, False) is None


def test_a_mistake_on_the_command_line_leaves_no_worker() -> None:
    command = (sys.executable, "-m", "maxserve", "serve", "--port", "many")
    server = subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    group = psutil.Process(server.pid)
    seen: set[psutil.Process] = set()
    while server.poll() is None:
        seen |= set(group.children())
    assert server.communicate()[1].startswith(b"Error: ")
    assert seen
    assert psutil.wait_procs(seen, timeout=5)[1] == []


ORPHAN = """
import os
from maxserve.core.runtime.ahead import Ahead
begun = Ahead()
os._exit(0)  # as if it was killed
"""


def test_one_whose_parent_goes_ends_in_silence() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], stderr=subprocess.PIPE, timeout=60, check=True)
    assert done.stderr == b""  # which ends when the worker does
