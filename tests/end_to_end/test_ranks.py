"""A server whose model two processes share: its texts, what becomes of it when one of them goes, and what it leaves."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from maxserve import LLM
from maxserve.testing.live import LiveServer

TEXT = {"prompt": "the quick brown fox", "max_tokens": 48, "ignore_eos": True}
LONG = {**TEXT, "max_tokens": 400, "temperature": 0, "stream": True}
SECOND = 1.0  # in which clients hear that a rank is gone


def ranks_of(server: LiveServer) -> list[psutil.Process]:
    """The processes that share the model, the first first."""
    children = psutil.Process(server.process.pid).children()
    return sorted((p for p in children if "runtime.worker" in " ".join(p.cmdline())), key=lambda p: p.pid)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its sockets."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def server(model_folder: Callable[..., Path], place: Path) -> Iterator[LiveServer]:
    options = ("--model", str(model_folder()), "--devices", "cpu:0,1", "--max-batch-size", "4", "--step-timeout", "2")
    server = LiveServer(*options, env={"TMPDIR": str(place)})
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def lost_stream(server: LiveServer, end: Callable[[], object]) -> tuple[str, float]:
    """The error that a stream ends with after `end`, and the seconds until then."""
    with httpx.stream("POST", server.url + "/v1/completions", json=LONG, timeout=60) as answer:
        lines = answer.iter_lines()
        next(lines)
        end()
        begun = time.monotonic()
        events = [line.removeprefix("data: ") for line in lines if line]
        took = time.monotonic() - begun
    assert events[-1] == "[DONE]"
    return json.loads(events[-2])["error"]["message"], took


def text(server: LiveServer, **fields: Any) -> str:
    answer = httpx.post(server.url + "/v1/completions", json={**TEXT, **fields}, timeout=60)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["choices"][0]["text"]
    return found


def test_idle_ranks_use_no_cpu(server: LiveServer) -> None:
    def used() -> float:
        times = [process.cpu_times() for process in ranks_of(server)]
        return sum(each.user + each.system for each in times)

    before = used()
    time.sleep(3)
    assert used() - before <= 0.03


def test_texts_are_those_of_one_process(server: LiveServer, model_folder: Callable[..., Path]) -> None:
    one = LLM(str(model_folder()), devices="cpu", max_batch_size=4)
    for fields in ({"temperature": 0.0}, {"temperature": 0.9, "seed": 5}):
        (due,) = one.generate(TEXT["prompt"], max_tokens=48, ignore_eos=True, **fields)
        assert text(server, **fields) == due.text


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_rank_fails_requests_and_all_come_back(server: LiveServer, number: int) -> None:
    before = ranks_of(server)
    due = text(server, temperature=0.0)
    message, took = lost_stream(server, before[number].kill)
    assert "the model worker stopped and is being restarted" in message
    assert took < SECOND
    assert server.health() == 503
    server.wait_health(200)
    assert f"rank {number} of the worker (pid {before[number].pid}) was ended by SIGKILL" in server.output
    _, alive = psutil.wait_procs(before, timeout=5)
    assert not alive, "a rank outlived the other"
    assert text(server, temperature=0.0) == due


def test_a_rank_that_hangs_is_noticed(server: LiveServer) -> None:
    before = ranks_of(server)
    message, took = lost_stream(server, lambda: before[1].send_signal(signal.SIGSTOP))
    assert "the model worker stopped and is being restarted" in message
    assert took < 2 + 5 * SECOND
    server.wait_health(200)
    assert "Timed out waiting" in server.output
    assert not psutil.wait_procs(before, timeout=5)[1]
    assert text(server, temperature=0.0)


def test_nothing_is_left(server: LiveServer, place: Path) -> None:
    """The last test of this file, which ends the server."""
    processes = ranks_of(server)
    assert len(processes) == 2
    assert len(list(place.glob("maxserve-*"))) == 1
    assert not list(place.glob("maxserve-*/*meeting*"))
    assert server.stop() == 0
    assert not psutil.wait_procs(processes, timeout=5)[1]
    assert not list(place.glob("maxserve-*"))


def test_ranks_end_with_the_server_however_that_ends(start: Any, model_folder: Callable[..., Path]) -> None:
    server = start("--model", str(model_folder()), "--devices", "cpu:0,1", "--max-batch-size", "4").wait_ready()
    processes = ranks_of(server)
    with httpx.stream("POST", server.url + "/v1/completions", json=LONG, timeout=60) as answer:
        next(answer.iter_lines())
        server.process.kill()
    server.process.wait(10)
    assert len(processes) == 2
    assert not psutil.wait_procs(processes, timeout=5)[1]


GROUP = """
from maxserve import Executor, hookimpl
from maxserve.ranks import LocalGroup


class Told(LocalGroup):
    def __init__(self, rank, failed):
        super().__init__(rank, failed)
        print(f"rank {rank.number} of {rank.size} has joined", flush=True)


@hookimpl
def maxserve_executors():
    build = "maxserve.plugins.executors.local:LocalLauncher"
    yield Executor(name="acme", build=build, group="acme_ranks:Told")
"""


def test_ranks_are_joined_by_what_their_executor_says(
    start: Any, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "acme_ranks.py").write_text(GROUP)
    plugin = ("--plugin", str(tmp_path / "acme_ranks.py"), "--executor", "acme")
    server = start("--model", str(model_folder()), "--devices", "cpu:0,1", "--max-batch-size", "4", *plugin)
    server.wait_ready()
    assert {f"rank {number} of 2 has joined" for number in (0, 1)} <= set(server.output.splitlines())
    assert text(server, temperature=0.0)


def test_what_cannot_be_shared_ends_the_start(start: Any, model_folder: Callable[..., Path]) -> None:
    """With the status of a wrong option, whichever rank says so first."""
    server = start("--model", str(model_folder()), "--devices", "cpu:0,1,2")
    assert server.process.wait(60) == 2
    time.sleep(0.1)
    assert "the model has 4 attention heads, which 3 ranks cannot share equally" in server.output
