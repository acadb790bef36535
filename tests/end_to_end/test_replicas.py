"""A server with two replicas of the model: where requests go, their texts, and what becomes of them when one dies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from maxserve import LLM
from maxserve.testing.live import LiveServer

PAGE = 16
REPLICAS = ("--devices", "cpu:0,1", "--data-parallel-degree", "2")
OPTIONS = (*REPLICAS, "--max-batch-size", "16", "--kv-cache-page-size", str(PAGE))
PREFIX = 24 * PAGE  # tokens: more than what a request or two more count


def workers(server: LiveServer) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return sorted((p for p in children if "runtime.worker" in " ".join(p.cmdline())), key=lambda p: p.pid)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server keeps its sockets."""
    return tmp_path_factory.mktemp("replicas")


@pytest.fixture(scope="module")
def server(model_folder: Callable[..., Path], place: Path) -> Iterator[LiveServer]:
    server = LiveServer("--model", str(model_folder()), *OPTIONS, env={"TMPDIR": str(place)})
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def post(server: LiveServer, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    body = {"prompt": "the quick brown fox", "max_tokens": 16, "ignore_eos": True, "temperature": 0, **fields}
    return httpx.post(server.url + "/v1/completions", json=body, headers=headers, timeout=60)


def counted(server: LiveServer, name: str, **labels: str) -> float:
    """The value of a series."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    found = [line for line in lines if line.startswith(name) and all(each in line for each in wanted)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


def prompt(number: int, own: int = 5) -> list[int]:
    """Token ids of one of four prefixes, and some of its own."""
    return [10 + number % 4] * PREFIX + [20 + number] * own


def test_texts_are_those_of_one_process(server: LiveServer, model_folder: Callable[..., Path]) -> None:
    one = LLM(str(model_folder()), devices="cpu", max_batch_size=4)
    for fields in ({"temperature": 0.0}, {"temperature": 0.9, "seed": 5}):
        (due,) = one.generate("the quick brown fox", max_tokens=16, ignore_eos=True, **fields)
        texts = {
            post(server, {"X-data-parallel-rank": rank}, **fields).json()["choices"][0]["text"] for rank in ("0", "1")
        }
        assert texts == {due.text}


def generated(server: LiveServer) -> list[float]:
    """Tokens of each replica so far."""
    return [counted(server, "maxserve_replica_generated_tokens_total", replica=str(n)) for n in (0, 1)]


def test_requests_are_shared_and_prefixes_are_found(server: LiveServer) -> None:
    before, hits = generated(server), counted(server, "vllm:prefix_cache_hits_total")
    answers = [post(server, prompt=prompt(n)) for n in range(4)]  # one after the other: two prefixes for each replica
    with ThreadPoolExecutor(8) as threads:
        answers += threads.map(lambda n: post(server, prompt=prompt(n)), range(4, 64))
    assert {answer.status_code for answer in answers} == {200}
    shares = [after - then for after, then in zip(generated(server), before, strict=True)]
    assert sum(shares) == 64 * 16
    assert 0.4 <= shares[0] / sum(shares) <= 0.6
    ideal = (64 - 4) * PREFIX  # each prefix is computed once
    found = [answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] for answer in answers]
    assert counted(server, "vllm:prefix_cache_hits_total") - hits >= 0.9 * ideal, found


def test_a_header_that_names_no_replica(server: LiveServer) -> None:
    answer = post(server, {"X-data-parallel-rank": "2"})
    assert answer.status_code == 400
    assert "expected a number below 2" in answer.json()["error"]["message"]


def begun(server: LiveServer, rank: str, stack: ExitStack) -> Iterator[str]:
    """The further lines of a long stream of one replica, the first of which is there."""
    body = {"max_tokens": 400, "stream": True, "prompt": "the quick brown fox", "ignore_eos": True, "temperature": 0}
    headers = {"X-data-parallel-rank": rank}
    answer = httpx.stream("POST", server.url + "/v1/completions", json=body, headers=headers, timeout=60)
    lines = stack.enter_context(answer).iter_lines()
    next(lines)
    return lines


def test_a_replica_that_is_killed_takes_its_own_requests_only(server: LiveServer) -> None:
    before, totals = workers(server), counted(server, "vllm:generation_tokens_total")
    with ExitStack() as stack:
        other, own = begun(server, "1", stack), begun(server, "0", stack)
        before[0].kill()
        lost, whole = [[line for line in lines if line] for lines in (own, other)]
    assert lost[-1] == whole[-1] == "data: [DONE]"
    assert "the model worker stopped" in lost[-2]
    assert "error" not in "".join(whole)
    assert server.health() == 200
    assert post(server).status_code == 200
    deadline = time.monotonic() + 30
    while "replica 0 is back" not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.05)
    assert post(server, {"X-data-parallel-rank": "0"}).status_code == 200
    assert counted(server, "vllm:generation_tokens_total") > totals  # it never goes back


def test_a_waiting_request_of_a_killed_replica_is_answered_by_the_other(server: LiveServer) -> None:
    """Its client was sent nothing yet."""
    victim = workers(server)[0]
    with ThreadPoolExecutor(16) as threads:
        victim.suspend()
        answers = [threads.submit(post, server, prompt=[40 + n] * 20) for n in range(12)]
        time.sleep(0.5)  # those of the other replica are answered, and the rest waits
        victim.kill()
        assert {answer.result().status_code for answer in answers} == {200}


def test_nothing_is_left(server: LiveServer, place: Path) -> None:
    """The last test of this file, which ends the server."""
    processes = workers(server)
    assert server.stop() == 0
    assert not psutil.wait_procs(processes, timeout=5)[1]
    assert not list(place.glob("maxserve-*"))


def test_adapters_are_on_all_replicas_and_on_those_that_come_back(
    start: Any, model_folder: Callable[..., Path]
) -> None:
    import transformers

    from tests.plugins.lora.conftest import Base

    base = Base(model_folder(), transformers.LlamaForCausalLM)
    adapter = base.adapter("replicated", seed=1)
    server = start("--model", str(base.folder), "--enable-lora", *OPTIONS).wait_ready()

    def texts(model: str) -> list[str]:
        answers = [post(server, {"X-data-parallel-rank": rank}, model=model) for rank in ("0", "1")]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        return [answer.json()["choices"][0]["text"] for answer in answers]

    loaded = {"lora_name": "late", "lora_path": str(adapter)}
    assert httpx.post(server.url + "/v1/load_lora_adapter", json=loaded, timeout=60).status_code == 200
    due = LLM(str(base.folder), lora=str(adapter)).generate(
        "the quick brown fox", max_tokens=16, ignore_eos=True, temperature=0.0
    )
    assert texts("late") == [due[0].text] * 2
    workers(server)[1].kill()
    deadline = time.monotonic() + 30
    while "replica 1 is back" not in server.output:
        assert time.monotonic() < deadline, server.output
        time.sleep(0.05)
    assert texts("late") == [due[0].text] * 2
    unloaded = httpx.post(server.url + "/v1/unload_lora_adapter", json={"lora_name": "late"}, timeout=60)
    assert unloaded.status_code == 200
    assert post(server, model="late").status_code == 404
    assert server.stop() == 0


def test_texts_are_encoded_by_replicas(start: Any, encoder_folder: Callable[..., Path]) -> None:
    server = start("--model", str(encoder_folder()), *REPLICAS).wait_ready()
    asked = [{"input": [f"the quick brown fox {n}", "jumps"]} for n in range(6)]

    def vectors(body: dict[str, Any]) -> list[list[float]]:
        answer = httpx.post(server.url + "/v1/embeddings", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return [each["embedding"] for each in answer.json()["data"]]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(vectors, asked))
    one = LLM(str(encoder_folder()), devices="cpu")
    for body, given in zip(asked, found, strict=True):
        for vector, due in zip(given, one.encode(body["input"]), strict=True):
            assert vector == pytest.approx(list(due), abs=1e-5)
    assert server.stop() == 0
