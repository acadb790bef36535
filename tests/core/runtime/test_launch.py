from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import psutil
import pytest

from maxserve.core.config import Settings
from maxserve.core.hookspecs import hookimpl
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.routes import Routes
from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.runtime.launch import chosen_routes

STUB = Path(__file__).parent / "stub"
SLOW, FATAL = 1, 2
PATIENCE = 60.0


class Server:
    """A server in a process of its own, with a folder of its own for temporary files."""

    def __init__(self, model: Path, temporary: Path, engine: str, grace: str, settings: dict[str, Any]) -> None:
        temporary.mkdir(exist_ok=True)
        self.temporary = temporary
        self.lines: list[str] = []
        self._more = threading.Condition()
        self._ended = False
        self.process = subprocess.Popen(
            [sys.executable, str(STUB / "stub_serve.py"), str(model), engine, json.dumps(settings), grace],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._more:
                    self.lines.append(line.rstrip())
                    self._more.notify_all()
        with self._more:
            self._ended = True
            self._more.notify_all()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def line(self, pattern: str) -> re.Match[str]:
        """The first line that matches, as soon as there is one."""
        with self._more:
            found = self._more.wait_for(lambda: self._search(pattern) or self._ended, PATIENCE)
        assert isinstance(found, re.Match), self.output
        return found

    def _search(self, pattern: str) -> re.Match[str] | None:
        return next((found for line in self.lines if (found := re.search(pattern, line))), None)

    @property
    def url(self) -> str:
        return self.line(r"Server ready on (http://\S+)")[1]

    @property
    def worker(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def wait_health(self, status: int) -> httpx.Response:
        end = time.monotonic() + PATIENCE
        while (answer := httpx.get(f"{self.url}/health")).status_code != status:
            assert time.monotonic() < end, self.output
            time.sleep(0.01)
        return answer

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        status = self.process.wait(PATIENCE)
        self._reader.join(10)
        return status


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a path so short that sockets can lie in it, wherever the tests themselves have theirs."""
    folder = Path(tempfile.mkdtemp(prefix="ms-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def launch(model_folder: Callable[..., Path], temporary: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers and ends them with the test."""
    started: list[Server] = []

    def launch(engine: str = "build", *, grace: str = "", **settings: Any) -> Server:
        started.append(Server(model_folder(), temporary / "t", engine, grace, settings))
        return started[-1]

    yield launch
    for server in started:
        server.process.kill()
        server.wait()


def count(server: Server, **params: int) -> list[str]:
    return httpx.get(f"{server.url}/count", params=params, timeout=PATIENCE).text.split()


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=10)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_serves_and_leaves_nothing_behind(launch: Callable[..., Server]) -> None:
    server = launch(log_prefix="here:", pretty_print_config=True)
    assert count(server, n=3) == ["0", "1", "2"]
    health = httpx.get(f"{server.url}/health")
    assert health.status_code == 200
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", health.headers["date"])
    worker = server.worker
    assert list(server.temporary.iterdir())
    assert server.end() == 0
    assert gone(worker)
    assert list(server.temporary.iterdir()) == []
    assert all(line.startswith("here: ") for line in server.lines), server.output
    assert re.search("device.memory.utilization", server.output)
    for told in ("uses plugin 'stub_routes'", "architecture  Counter", "--host 0.0.0.0", "stopped"):
        assert told in server.output


def test_streams_end_with_an_error_when_the_worker_is_killed_and_the_next_one_serves(
    launch: Callable[..., Server],
) -> None:
    server = launch()
    url, first = server.url, server.worker
    with httpx.stream("GET", f"{url}/count", params={"kind": SLOW}, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "0"
        first.kill()
        assert list(lines)[-1].startswith("died: the worker")
    assert "SIGKILL" in server.wait_health(503).text
    server.wait_health(200)
    assert server.worker.pid != first.pid
    assert count(server, n=2) == ["0", "1"]
    assert server.end() == 0


def test_three_deaths_in_a_row_end_the_server(launch: Callable[..., Server]) -> None:
    server = launch()
    for _ in range(3):
        server.wait_health(200)
        assert "SIGKILL" in " ".join(count(server, kind=FATAL))
    assert server.wait() == 1
    assert re.search(r"ERROR .* 3 times in a row", server.output)
    assert "Traceback" not in server.output
    assert list(server.temporary.iterdir()) == []


def test_termination_lets_requests_finish(launch: Callable[..., Server]) -> None:
    server = launch()
    url = server.url
    with httpx.stream("GET", f"{url}/count", params={"kind": SLOW, "n": 60}, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        server.line("stopping")
        assert list(lines)[-1] == "59"
    assert server.wait() == 0


def test_requests_that_outlast_the_grace_are_told(launch: Callable[..., Server]) -> None:
    server = launch(grace="0.3")
    with httpx.stream("GET", f"{server.url}/count", params={"kind": SLOW}, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        assert list(lines)[-1] == "refused: the server is stopping"
    assert server.wait() == 0
    assert "1 requests still run after 0.3 s" in server.output
    assert "Traceback" not in server.output


def test_a_worker_whose_model_holds_less_is_served_as_such(launch: Callable[..., Server]) -> None:
    server = launch("build_changing")
    url, first = server.url, server.worker
    assert httpx.get(f"{url}/length").json() == first.pid
    first.kill()
    server.line("the worker is back")
    server.wait_health(200)
    assert httpx.get(f"{url}/length").json() == server.worker.pid != first.pid


def test_second_signal_ends_it_at_once(launch: Callable[..., Server]) -> None:
    server = launch()
    with httpx.stream("GET", f"{server.url}/count", params={"kind": SLOW}, timeout=PATIENCE) as answer:
        lines = answer.iter_lines()  # kept: an iterator that is thrown away closes the connection
        next(lines)
        worker = server.worker
        server.process.send_signal(signal.SIGINT)
        server.line("stopping; 1 requests")
        started = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert time.monotonic() - started < 4  # a single signal would wait for 5 s
    assert gone(worker)
    assert list(server.temporary.iterdir()) == []


def test_killed_server_takes_its_worker_along_and_the_next_one_cleans_up(launch: Callable[..., Server]) -> None:
    server = launch()
    assert server.url
    worker = server.worker
    assert server.end(signal.SIGKILL) == -signal.SIGKILL
    assert gone(worker)
    [abandoned] = server.temporary.iterdir()
    another = launch()
    assert another.url
    assert not abandoned.exists()
    assert another.end() == 0
    assert list(server.temporary.iterdir()) == []


def test_port_answers_503_while_the_model_loads_and_a_signal_ends_that_too(
    launch: Callable[..., Server],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = launch("build_never", port=port)
    server.line("waiting for ever")
    answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE)
    assert (answer.status_code, answer.json()["phase"]) == (503, "waiting for ever")
    assert httpx.get(f"http://127.0.0.1:{port}/count").status_code == 503
    worker = server.worker
    assert server.end() == 0
    assert gone(worker)
    assert list(server.temporary.iterdir()) == []


@pytest.mark.parametrize(("engine", "status", "told"), [("build_unfit", 2, "does not fit"), ("build_broken", 1, "bug")])
def test_failed_start_ends_the_server(launch: Callable[..., Server], engine: str, status: int, told: str) -> None:
    server = launch(engine)
    # The command line turns a UsageError into one line and status 2; this script does not.
    assert server.wait() == (1 if status == 2 else status)
    assert told in server.lines[-1]
    assert ("UsageError" in server.lines[-1]) == (status == 2)
    assert list(server.temporary.iterdir()) == []


def test_routes_of_plugins_are_served_only_when_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUB))
    host = PluginHost.discover(PluginOptions(plugin=("stub_routes",)), strict=True)

    def chosen(*named: str) -> set[str]:
        settings = Settings.model_validate({"server": {"enable_routes": named}})
        return {entry.component.name for entry in chosen_routes(settings, host)}

    ours = {"openai", "anthropic", "sagemaker", "kserve", "metrics", "admin", "rerank", "lora"}
    assert chosen() == ours
    assert chosen("stub_routes") == {*ours, "stub_routes"}
    assert {entry.component.name for entry in host.of(Routes) if entry.component.default} == ours, "one rule for all"
    with pytest.raises(PluginError, match=r"--enable-routes absent.*stub_routes"):
        chosen("absent")


def test_routes_of_a_stranger_may_be_served_by_default(plugin_host: Callable[..., PluginHost]) -> None:
    routes = [Routes(name="a", build="acme:a"), Routes(name="b", build="acme:b", default=True)]
    host = plugin_host(SimpleNamespace(maxserve_routes=hookimpl(lambda: routes)), no_plugin=("builtin.openai",))
    names = [entry.component.name for entry in chosen_routes(Settings(), host)]
    assert "b" in names
    assert not {"a", "openai"} & set(names)
