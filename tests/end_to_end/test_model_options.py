"""Options of the model against a real server: a name of its own, a late look at the model, what a family insists on."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from maxserve.testing.live import LiveServer

NAME = "team/small-one"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
USER = {"role": "user", "content": "the quick brown fox jumps over the lazy dog " * 8}

INSISTING = """
from maxserve import Architecture, hookimpl
from maxserve.architectures.weight_maps import FUSED
ARCHITECTURES = [
    Architecture(
        name="LlamaForCausalLM",
        build="maxserve.architectures.llama:Model",
        weights=FUSED,
        required_arguments={"enable_prefix_caching": False, "enable_echo": False},
    )
]
"""

WAITING = """
import time
from pathlib import Path
from maxserve import ModelSource, hookimpl

@hookimpl
def maxserve_model_source(ref):
    if ref != "acme:late":
        return None
    go = Path({go!r})
    while not go.exists():
        time.sleep(0.02)
    return ModelSource(path=go.read_text())
"""


@pytest.fixture(scope="module")
def folder(model_folder: Callable[..., Path]) -> Path:
    return model_folder()


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The model is not looked at before its worker does so, and its architecture has demands."""
    modules = tmp_path_factory.mktemp("modules")
    (modules / "insisting.py").write_text(INSISTING)
    server = LiveServer(
        *("--model", str(folder), "--served-model-name", NAME, "--max-batch-size", "8", "--defer-resolve"),
        *("--custom-architectures", f"{modules}:insisting"),
        env=ONE_THREAD,
    )
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


CHAT: dict[str, Any] = {"model": NAME, "messages": [USER], "max_tokens": 3}
ASKED: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"model": NAME, "prompt": "the", "max_tokens": 3},
    "/v1/responses": {"model": NAME, "input": "the", "max_output_tokens": 3, "store": False},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {"model": NAME, "messages": [USER]},
    "/tokenize": {"model": NAME, "prompt": "the"},
    "/detokenize": {"model": NAME, "tokens": [5, 6]},
    "/invocations": CHAT,
    f"/v2/models/{NAME}/infer": {
        "inputs": [{"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["the"]}],
        "parameters": {"max_tokens": 3},
    },
    f"/v2/models/{NAME}/generate": {"text_input": "the", "parameters": {"max_tokens": 3}},
}
NAMED = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/invocations")


@pytest.mark.parametrize("path", ASKED)
def test_every_route_knows_the_model_by_its_served_name(server: LiveServer, folder: Path, path: str) -> None:
    answer = httpx.post(server.url + path, json=ASKED[path], timeout=60)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    name = body.get("model", body.get("model_name"))
    assert name == (NAME if path in NAMED or "/v2/" in path else None), body
    assert str(folder) not in answer.text


@pytest.mark.parametrize("path", [path for path, body in ASKED.items() if "model" in body])
def test_the_path_is_no_name_of_the_model(server: LiveServer, folder: Path, path: str) -> None:
    answer = httpx.post(server.url + path, json={**ASKED[path], "model": str(folder)}, timeout=60)
    assert answer.status_code == 404, answer.text
    assert NAME in answer.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"])
def test_streams_too(server: LiveServer, folder: Path, path: str) -> None:
    answer = httpx.post(server.url + path, json={**ASKED[path], "stream": True}, timeout=60)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    names = {
        event.get("model") or event.get("message", {}).get("model") or event.get("response", {}).get("model")
        for event in events
    }
    assert NAME in names
    assert names <= {NAME, None}
    assert str(folder) not in answer.text


def test_lists_and_metrics_name_it(server: LiveServer, folder: Path) -> None:
    httpx.post(server.url + "/v1/completions", json=ASKED["/v1/completions"], timeout=60).raise_for_status()
    paths = [path for path, item in httpx.get(server.url + "/openapi.json").json()["paths"].items() if "get" in item]
    named = set()
    for path in ("/metrics", *paths):
        answer = httpx.get(server.url + path.replace("{name}", NAME).replace("{model}", NAME), timeout=60)
        assert str(folder) not in answer.text, path
        if NAME in answer.text:
            named.add(path)
    assert {"/v1/models", "/metrics"} <= named
    assert httpx.get(server.url + "/v1/models").json()["data"][0]["root"] == folder.name
    assert [each["id"] for each in httpx.get(server.url + "/v1/models").json()["data"]] == [NAME]
    assert httpx.get(f"{server.url}/v1/models/{NAME}").json()["id"] == NAME
    assert httpx.get(f"{server.url}/v1/models/{folder.name}").status_code == 404
    assert httpx.get(f"{server.url}/v2/models/{NAME}").json()["name"] == NAME


def test_what_the_family_insists_on_holds_in_both_processes(server: LiveServer) -> None:
    told = [line for line in server.lines if "insists on" in line]
    assert len(told) == 2, told
    assert "insists on --no-enable-prefix-caching; --enable-prefix-caching is overruled" in told[0]
    for _ in range(2):
        usage = httpx.post(server.url + "/v1/chat/completions", json=CHAT, timeout=60).json()["usage"]
        assert usage["prompt_tokens"] > 64
        assert not (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    echo = {**ASKED["/v1/completions"], "echo": True, "logprobs": 1}
    answer = httpx.post(server.url + "/v1/completions", json=echo, timeout=60)
    assert answer.status_code == 400
    assert "--enable-echo" in answer.text or "echo" in answer.json()["error"]["param"]


def test_a_server_answers_before_anyone_has_looked_for_the_model(folder: Path, tmp_path: Path, start: Any) -> None:
    go = tmp_path / "go"
    (tmp_path / "late_models.py").write_text(WAITING.format(go=str(go)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = start(
        *("--model", "acme:late", "--port", str(port), "--defer-resolve", "--max-batch-size", "2"),
        *("--plugin", "late_models"),
        path=tmp_path,
    )
    url = f"http://127.0.0.1:{port}/health"
    assert first_status(url, server) == 503
    assert not server.url, "the model cannot be there yet"
    go.write_text(str(folder))
    server.wait_ready()
    assert server.health() == 200


def first_status(url: str, server: LiveServer) -> int:
    """The status of the first answer that comes."""
    for _ in range(1000):
        try:
            return httpx.get(url, timeout=10).status_code
        except httpx.TransportError:
            assert server.process.poll() is None, server.output
            time.sleep(0.05)
    raise AssertionError(f"no answer:\n{server.output}")


@pytest.fixture
def start() -> Iterator[Callable[..., LiveServer]]:
    """Starts servers that can import from a folder, and ends them with the test."""
    started: list[LiveServer] = []

    def start(*options: str, path: Path) -> LiveServer:
        started.append(
            LiveServer(
                *options,
                env={**ONE_THREAD, "PYTHONPATH": os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])},
            )
        )
        return started[-1]

    yield start
    for server in started:
        server.stop()


def test_a_model_that_is_not_there_ends_the_start_late(tmp_path: Path, start: Any) -> None:
    server = start("--model", str(tmp_path / "missing"), "--defer-resolve", path=tmp_path)
    assert server.process.wait(60) == 2
    server.stop()
    assert "there is no folder" in server.output
    assert "Traceback" not in server.output
