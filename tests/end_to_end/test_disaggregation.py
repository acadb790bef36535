"""Servers that compute prompts and servers that answer, over loopback: texts, both ways in, and who is killed."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from maxserve import LLM
from maxserve.testing.live import LiveServer

OPTIONS = ("--devices", "cpu", "--max-batch-size", "4")
SHORT = ("--transfers.lease", "3", "--transfers.timeout", "2")  # seconds
FIELDS: tuple[dict[str, Any], ...] = ({"temperature": 0.0}, {"temperature": 0.9, "seed": 5})
REMOTE = {"remote_engine_id": None, "remote_block_ids": None, "remote_host": None, "remote_port": None}
ASKS = {"do_remote_decode": True, "do_remote_prefill": False, **REMOTE}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def worker_of(server: LiveServer) -> psutil.Process:
    children = psutil.Process(server.process.pid).children()
    (worker,) = [process for process in children if "runtime.worker" in " ".join(process.cmdline())]
    return worker


def waited(condition: Callable[[], Any], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


class Pair:
    """A server that prefills, one that decodes, and where the first is asked."""

    def __init__(self, folder: Path, *, headless: bool, decode: tuple[str, ...] = (), page: str = "16") -> None:
        self.port = free_port()
        self.endpoint = f"tcp://127.0.0.1:{self.port}"
        self._prefill = ("--model", str(folder), *OPTIONS, *SHORT, "--kv-cache-page-size", page)
        self._prefill += ("--pipeline-role", "PrefillOnly", *(("--headless",) if headless else ()))
        self.headless = headless
        self.prefill = self._started()
        self.decode = LiveServer(
            "--model", str(folder), *OPTIONS, *SHORT, "--pipeline-role", "DecodeOnly", *decode
        )  # fmt: skip
        self.decode.wait_ready()
        self.wait()

    def _started(self) -> LiveServer:
        return LiveServer(*self._prefill, env={"MAX_SERVE_DI_BIND_ADDRESS": self.endpoint})

    def wait(self) -> None:
        if self.headless:
            waited(lambda: "without HTTP" in self.prefill.output, self.prefill.output)
        else:
            self.prefill.wait_ready()

    def restart(self) -> None:
        self.prefill.process.kill()
        self.prefill.process.wait()
        self.prefill = self._started()
        self.wait()

    def ask(self, **fields: Any) -> httpx.Response:
        body = {"prompt": "the quick brown fox", "max_tokens": 12, "temperature": 0, "ignore_eos": True, **fields}
        return httpx.post(self.decode.url + "/v1/completions", json=body, timeout=60)

    def counted(self, name: str) -> float:
        lines = httpx.get(self.decode.url + "/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def stop(self) -> None:
        for server in (self.decode, self.prefill):
            if server.process.poll() is None:
                server.stop()


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[Pair]:
    """MAX's way: prefill without HTTP, with small pages; decode with large ones."""
    made = Pair(folder, headless=True, decode=("--kv-cache-page-size", "64"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def pods(folder: Path) -> Iterator[Pair]:
    """llm-d's way: both with HTTP, and decode computes prompts where it must."""
    made = Pair(folder, headless=False, decode=("--transfers.on-failure", "recompute", "--kv-cache-page-size", "16"))
    yield made
    made.stop()


def tokens(number: int, length: int = 150) -> list[int]:
    """A prompt of its own."""
    return [10 + (number * 7 + at * at) % 50 for at in range(length)]


def test_texts_are_those_of_one_server(pair: Pair, folder: Path) -> None:
    one = LLM(str(folder), devices="cpu", max_batch_size=4)
    before = pair.counted("maxserve_kv_transfers_total")
    for number, fields in enumerate(FIELDS):
        (due,) = one.generate([tokens(number)], max_tokens=24, ignore_eos=True, **fields)
        answer = pair.ask(prompt=tokens(number), max_tokens=24, target_endpoint=pair.endpoint, **fields).json()
        assert answer["choices"][0]["text"] == due.text
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 128
    assert pair.counted("maxserve_kv_transfers_total") == before + len(FIELDS)
    assert pair.counted("maxserve_kv_transfer_bytes_total") > 0
    assert pair.counted("maxserve_kv_transfer_failures_total") == 0


def test_many_at_once_and_answers_that_share_a_prompt(pair: Pair) -> None:
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(pair.ask, prompt=tokens(10 + n % 6), target_endpoint=pair.endpoint) for n in range(12)]
        answers = [each.result() for each in asked]
    assert {answer.status_code for answer in answers} == {200}
    texts = [answer.json()["choices"][0]["text"] for answer in answers]
    assert texts[:6] == texts[6:]
    several = pair.ask(prompt=tokens(20), target_endpoint=pair.endpoint, n=3)
    assert len({choice["text"] for choice in several.json()["choices"]}) == 1


@pytest.mark.parametrize(
    "target", [None, "", "127.0.0.1:5555", "http://127.0.0.1:5555", "tcp://127.0.0.1", "tcp://h:0"]
)
def test_a_missing_or_malformed_target_is_400(pair: Pair, target: str | None) -> None:
    answer = pair.ask(target_endpoint=target)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "target_endpoint"


def test_the_header_wins(pair: Pair) -> None:
    body = {"prompt": tokens(30), "max_tokens": 2, "target_endpoint": "tcp://127.0.0.1:1"}
    headers = {"X-Target-Endpoint": pair.endpoint}
    assert httpx.post(pair.decode.url + "/v1/completions", json=body, headers=headers, timeout=30).status_code == 200


def test_chats_have_their_prompts_computed_elsewhere(pair: Pair) -> None:
    body = {"messages": [{"role": "user", "content": "hello " * 60}], "max_tokens": 4, "target_endpoint": pair.endpoint}
    answer = httpx.post(pair.decode.url + "/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64


def test_a_server_that_is_not_there_is_503_and_the_next_one_is_asked(pair: Pair) -> None:
    answer = pair.ask(prompt=tokens(40), target_endpoint="tcp://127.0.0.1:1")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "prefill_failed")
    assert pair.counted("maxserve_kv_transfer_failures_total") >= 1
    assert pair.ask(prompt=tokens(40), target_endpoint=f"tcp://127.0.0.1:1,{pair.endpoint}").status_code == 200


def test_another_model_is_refused_in_words(pair: Pair, model_folder: Callable[..., Path]) -> None:
    other = Pair.__new__(Pair)
    other.port = free_port()
    stranger = LiveServer(
        "--model", str(model_folder(num_hidden_layers=1)), *OPTIONS, "--headless", "--pipeline-role", "PrefillOnly",
        "--transfers.bind", f"tcp://127.0.0.1:{other.port}",
    )  # fmt: skip
    try:
        waited(lambda: "without HTTP" in stranger.output, stranger.output)
        answer = pair.ask(prompt=tokens(41), target_endpoint=f"tcp://127.0.0.1:{other.port}")
        assert answer.status_code == 503
        assert "serves another model" in answer.json()["error"]["message"]
    finally:
        stranger.stop()


def test_a_worker_that_prefills_is_killed_and_comes_back(pair: Pair) -> None:
    worker = worker_of(pair.prefill)
    worker.suspend()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(pair.ask, prompt=tokens(50), target_endpoint=pair.endpoint)
        time.sleep(0.3)
        begun = time.monotonic()
        os.kill(worker.pid, signal.SIGKILL)
        answer = asked.result()
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "prefill_failed")
    assert time.monotonic() - begun < 2.5
    waited(lambda: pair.prefill.output.count("without HTTP") or "is back" in pair.prefill.output, pair.prefill.output)
    waited(
        lambda: pair.ask(prompt=tokens(51), target_endpoint=pair.endpoint).status_code == 200, "it does not come back"
    )


def test_a_worker_that_decodes_is_killed_and_comes_back(pair: Pair) -> None:
    worker_of(pair.decode).kill()
    waited(lambda: pair.decode.health() == 200, pair.decode.output)
    waited(
        lambda: pair.ask(prompt=tokens(52), target_endpoint=pair.endpoint).status_code == 200, "it does not come back"
    )


def prefilled(pods: Pair, prompt: list[int], **fields: Any) -> httpx.Response:
    """The first of llm-d's two calls, as its sidecar makes it of a client's."""
    body = {"prompt": prompt, **fields, "max_tokens": 1, "stream": False, "kv_transfer_params": ASKS}
    return httpx.post(pods.prefill.url + "/v1/completions", json=body, timeout=60)


def sidecar(pods: Pair, prompt: list[int], **fields: Any) -> httpx.Response:
    """Both calls; decode alone where prefill answers with a 5xx."""
    try:
        first = prefilled(pods, prompt, **fields)
    except httpx.TransportError:
        return pods.ask(prompt=prompt, **fields)
    if first.status_code >= 500:
        return pods.ask(prompt=prompt, **fields)
    return pods.ask(prompt=prompt, **fields, kv_transfer_params=first.json()["kv_transfer_params"])


def test_two_calls_give_the_text_of_one_server(pods: Pair, folder: Path) -> None:
    one = LLM(str(folder), devices="cpu", max_batch_size=4)
    for number, fields in enumerate(FIELDS):
        (due,) = one.generate([tokens(number)], max_tokens=12, ignore_eos=True, **fields)
        answer = sidecar(pods, tokens(number), **fields)
        assert answer.json()["choices"][0]["text"] == due.text
        assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 144
    short = sidecar(pods, tokens(3, 5))
    assert short.status_code == 200


def test_what_prefill_answers_is_what_decode_takes(pods: Pair) -> None:
    params = prefilled(pods, tokens(5)).json()["kv_transfer_params"]
    assert params["do_remote_prefill"] is True
    assert params["do_remote_decode"] is False
    assert (params["remote_host"], params["remote_port"]) == ("127.0.0.1", pods.port)
    assert "kv_transfer_params" not in pods.ask(prompt=tokens(5), kv_transfer_params=params).json()


def test_prompts_of_prefill_are_for_others(pods: Pair) -> None:
    answer = httpx.post(pods.prefill.url + "/v1/completions", json={"prompt": "x", "max_tokens": 1})
    assert answer.status_code == 400
    assert "do_remote_decode" in answer.json()["error"]["message"]


@pytest.mark.parametrize("change", [{"remote_host": None}, {"remote_port": "x"}, {"remote_request_id": 5}])
def test_params_that_nobody_gave_are_400(pods: Pair, change: dict[str, Any]) -> None:
    params = {**prefilled(pods, tokens(6)).json()["kv_transfer_params"], **change}
    answer = pods.ask(kv_transfer_params=params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "kv_transfer_params")


def test_a_claim_whose_lease_has_ended_is_computed_here(pods: Pair) -> None:
    params = prefilled(pods, tokens(60)).json()["kv_transfer_params"]
    ended = f"the lease of {params['remote_request_id']} has expired"
    waited(lambda: ended in pods.prefill.output, pods.prefill.output, 10)
    answer = pods.ask(prompt=tokens(60), kv_transfer_params=params)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    series = httpx.get(pods.prefill.url + "/metrics").text
    assert "maxserve_kv_transfer_leases_expired_total" in series


def test_sigterm_refuses_new_prompts_and_gives_those_that_are_computed(pods: Pair) -> None:
    params = prefilled(pods, tokens(70)).json()["kv_transfer_params"]
    pods.prefill.process.send_signal(signal.SIGTERM)
    waited(lambda: "stopping" in pods.prefill.output, pods.prefill.output)
    answer = pods.ask(prompt=tokens(70), kv_transfer_params=params)
    assert answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 144
    assert pods.prefill.process.wait(10) == 0
    assert sidecar(pods, tokens(71)).status_code == 200, "the fallback of the sidecar"
    params["remote_request_id"] = "x"
    assert pods.ask(prompt=tokens(72), kv_transfer_params=params).status_code == 200, "computed here instead"


def test_an_idle_pair_uses_no_processor_time(pair: Pair) -> None:
    workers = [worker_of(server) for server in (pair.prefill, pair.decode)]
    time.sleep(4)  # leases end, memory is given back
    before = [sum(worker.cpu_times()[:2]) for worker in workers]
    time.sleep(3)
    assert max(sum(worker.cpu_times()[:2]) - then for worker, then in zip(workers, before, strict=True)) <= 0.03


def test_nothing_is_left(pair: Pair) -> None:
    """The last test of this file."""
    processes = [worker_of(server) for server in (pair.prefill, pair.decode)]
    assert (pair.decode.stop(), pair.prefill.stop()) == (0, 0)
    assert not psutil.wait_procs(processes, timeout=5)[1]
