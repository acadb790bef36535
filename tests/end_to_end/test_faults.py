"""What goes wrong in a live server stays where it went wrong."""

from __future__ import annotations

import json
import random
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

LONG = {"prompt": "the quick", "max_tokens": 480, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def server(two_processes: Any) -> Any:
    return two_processes


def worker_of(server: Any) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    return next(p for p in children if "worker" in " ".join(p.cmdline()))


def running(server: Any) -> float:
    text = httpx.get(server.url + "/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def wait_idle(server: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while running(server):
        assert time.monotonic() < end, "a request of a client who left still runs"
        time.sleep(0.02)


def test_a_client_who_leaves_frees_the_request(server: Any) -> None:
    with httpx.stream("POST", server.url + "/v1/completions", json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()  # kept: an iterator that is thrown away hangs up
        next(lines)
    wait_idle(server, 2.0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/v1/completions", json={**LONG, "n": 8}, timeout=0.2)
    wait_idle(server, 2.0)


def bodies(count: int) -> list[bytes]:
    rng = random.Random(0)
    values: list[Any] = [None, True, -1, 0, 1e308, 10**400, "x", "", [], [[]], {}, {"a": 1}, [1, "a"], "\ud800", 1.5]
    fields = ["model", "prompt", "messages", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "stop"]
    fields += ["seed", "stream", "stream_options", "stop_token_ids", "logit_bias", "tools", "response_format", "user"]
    raw = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"prompt": NaN}', b"[" * 5000, b'"x"', b"{}", b'{"a":' * 3000]
    found = list(raw)
    while len(found) < count:
        body = {field: rng.choice(values) for field in rng.sample(fields, rng.randrange(1, 6))}
        if rng.random() < 0.5:
            body["messages"] = [{"role": rng.choice(values), "content": rng.choice(values)}]
        found.append(json.dumps(body).encode())
    return found


def test_malformed_bodies_never_hurt_the_server(server: Any) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for body in bodies(150):
            for path in ("/v1/chat/completions", "/v1/completions"):
                answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
                assert answer.status_code < 500, (path, body[:200], answer.text)
                assert len(answer.content) < 20_000
                if answer.status_code != 200:
                    assert answer.json()["error"]["message"], (path, body[:200])
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_killed_worker_fails_its_streams_and_comes_back(start: Any, model_folder: Callable[..., Path]) -> None:
    server = start("--model", str(model_folder()), "--max-batch-size", "4").wait_ready()
    first = worker_of(server).pid
    with httpx.stream("POST", server.url + "/v1/completions", json={**LONG, "stream": True}, timeout=60) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        psutil.Process(first).send_signal(signal.SIGKILL)
        events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["error"]["message"]
    assert httpx.get(server.url + "/health").status_code == 503
    server.wait_health(200)
    assert worker_of(server).pid != first
    again = httpx.post(server.url + "/v1/completions", json={"prompt": "the", "max_tokens": 2}, timeout=60)
    assert again.status_code == 200
    worker = worker_of(server)
    server.process.kill()  # a server that goes takes its worker along, however it goes
    server.process.wait(10)
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE


def test_a_busy_port_is_noticed_before_the_model_is_loaded(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = start("--port", str(port), "--model", "maxserve/demo")
        assert server.process.wait(60) == 2
        time.sleep(0.1)
    assert str(port) in server.output
    assert "loading" not in server.output


def test_a_missing_model_is_one_line(start: Any, tmp_path: Path) -> None:
    server = start("--model", str(tmp_path / "nothing"))
    assert server.process.wait(60) == 2
    server.stop()
    assert "Traceback" not in server.output
    assert "nothing" in server.output


def test_an_idle_server_uses_no_processor(server: Any) -> None:
    """Neither process wakes: a tick ten times a second would already be seen here."""
    processes = [psutil.Process(server.process.pid), worker_of(server)]
    wait_idle(server, 2.0)
    time.sleep(0.3)
    before = [process.num_ctx_switches().voluntary for process in processes]
    time.sleep(1.5)
    after = [process.num_ctx_switches().voluntary for process in processes]
    assert max(b - a for a, b in zip(before, after, strict=True)) <= 8


def test_failing_batches_harm_nobody_else_and_lose_no_page(start: Any, model_folder: Callable[..., Path]) -> None:
    server = start("--model", str(model_folder()), "--max-batch-size", "1", "--sim-failure", "20").wait_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        short = {"prompt": "the", "max_tokens": 2, "ignore_eos": True}
        answers = [client.post("/v1/completions", json=short) for _ in range(40)]
        assert {answer.status_code for answer in answers} == {200, 500}
        assert all(answer.json()["error"]["type"] == "server_error" for answer in answers if answer.status_code == 500)
        assert client.get("/health").status_code == 200
        pages = [
            line for line in client.get("/metrics").text.splitlines() if line.startswith("maxserve_cache_num_used")
        ]
    assert [line.rsplit(" ", 1)[1] for line in pages] == ["0.0"]


def test_a_full_queue_is_a_429_until_there_is_room(start: Any, model_folder: Callable[..., Path]) -> None:
    options = ("--max-batch-size", "1", "--max-queue-size", "2")
    server = start("--model", str(model_folder()), *options).wait_ready()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        never = client.post("/v1/completions", json={**LONG, "n": 4})
        assert (never.status_code, never.json()["error"]["param"]) == (400, "n")
        with client.stream("POST", "/v1/completions", json={**LONG, "n": 2, "stream": True}) as running:
            lines = running.iter_lines()
            next(lines)
            worker_of(server).suspend()  # the queue stays as it is
            for body in ({**LONG, "n": 2}, {**LONG, "n": 2, "stream": True}, {**LONG, "prompt": ["a", "b", "c"]}):
                full = client.post("/v1/completions", json=body)
                assert (full.status_code, full.headers["content-type"]) == (429, "application/json")
                assert int(full.headers["retry-after"]) >= 1
                error = full.json()["error"]
                assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
                assert "--max-queue-size" in error["message"]
            assert client.get("/health").status_code == 200
            worker_of(server).resume()
        short = {"prompt": "the", "max_tokens": 2, "n": 3}
        deadline = time.monotonic() + 30
        while (again := client.post("/v1/completions", json=short)).status_code == 429:
            assert time.monotonic() < deadline, "the stream was left, so its requests are gone soon"
            time.sleep(0.05)
        assert (again.status_code, len(again.json()["choices"])) == (200, 3)
