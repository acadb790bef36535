"""Adapters over HTTP: names in /v1/models, loaded, replaced and unloaded while requests run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

import maxserve
from maxserve.testing.live import LiveServer
from tests.conftest import ONE_THREAD
from tests.end_to_end.test_faults import worker_of
from tests.plugins.lora.conftest import Base

PROMPT = "the quick brown fox"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture(scope="module")
def base(model_folder: Callable[..., Path]) -> Base:
    """The model that the server has, with adapters that lie in folders."""
    import transformers

    made = Base(model_folder(), transformers.LlamaForCausalLM)
    for seed, name in enumerate(("first", "second", "third")):
        made.adapter(name, seed=seed)
    return made


@pytest.fixture(scope="module")
def lora_server(base: Base) -> Iterator[LiveServer]:
    lora = ("--enable-lora", "--lora-paths", f"first={base.adapters['first']}", "--max-num-loras", "2")
    server = LiveServer("--model", str(base.folder), "--served-model-name", "tiny", *lora, env=ONE_THREAD)
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


def post(server: LiveServer, path: str, **body: Any) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60)


def text(server: LiveServer, model: str, tokens: int = 12) -> str:
    body = {"model": model, "prompt": PROMPT, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    answer = post(server, "/v1/completions", **body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["model"] == model
    found: str = answer.json()["choices"][0]["text"]
    return found


def names(server: LiveServer) -> dict[str, str | None]:
    return {each["id"]: each["parent"] for each in httpx.get(server.url + "/v1/models").json()["data"]}


def alone(base: Base, adapter: str) -> str:
    llm = maxserve.LLM(str(base.folder), lora=str(base.adapters[adapter]) if adapter else None)
    return llm.generate(PROMPT, max_tokens=12, temperature=0.0, ignore_eos=True)[0].text


def test_adapters_are_model_names(lora_server: LiveServer, base: Base) -> None:
    assert names(lora_server) == {"tiny": None, "first": "tiny"}
    cards = httpx.get(lora_server.url + "/v1/models").json()["data"]
    assert [each["root"] for each in cards] == [base.folder.name, base.adapters["first"].name]
    texts = {name: text(lora_server, name) for name in ("tiny", "first")}
    assert texts == {"tiny": alone(base, ""), "first": alone(base, "first")}
    assert texts["tiny"] != texts["first"]
    metrics = httpx.get(lora_server.url + "/metrics").text
    assert 'vllm:lora_requests_info{max_lora="2"' in metrics


def test_several_answers_with_likelihoods(lora_server: LiveServer, base: Base) -> None:
    """Those that each model gives alone, though all are asked at once."""
    asked = {"prompt": PROMPT, "n": 3, "logprobs": 2, "max_tokens": 8, "seed": 7, "temperature": 1, "ignore_eos": True}

    def choices(model: str) -> Any:
        found = post(lora_server, "/v1/completions", model=model, **asked).json()["choices"]
        return [(each["text"], [round(p, 3) for p in each["logprobs"]["token_logprobs"]]) for each in found]

    alone = {model: choices(model) for model in ("tiny", "first")}
    assert len({text for found in alone.values() for text, _ in found}) == 6
    with ThreadPoolExecutor(8) as threads:
        asked_at_once = [(model, threads.submit(choices, model)) for model in ("tiny", "first") * 4]
        for model, future in asked_at_once:
            assert future.result() == alone[model]


def test_load_replace_and_unload(lora_server: LiveServer, base: Base) -> None:
    """vLLM's and MAX's bodies and codes."""
    second, third = str(base.adapters["second"]), str(base.adapters["third"])
    assert post(lora_server, LOAD, lora_name="x", lora_path=second).status_code == 200
    assert post(lora_server, LOAD, lora_name="x", lora_path=second).status_code == 200, "the same once more"
    assert post(lora_server, LOAD, lora_name="x", lora_path=third).status_code == 409
    assert names(lora_server)["x"] == "tiny"
    assert text(lora_server, "x") == alone(base, "second")
    assert post(lora_server, LOAD, lora_name="x", lora_path=third, load_inplace=True).status_code == 200
    assert text(lora_server, "x") == alone(base, "third")
    assert post(lora_server, UNLOAD, lora_name="x").status_code == 200
    assert "x" not in names(lora_server)
    assert post(lora_server, UNLOAD, lora_name="x").status_code == 404
    unknown = post(lora_server, "/v1/completions", model="x", prompt=PROMPT)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"lora_name": "a", "lora_path": "/nothing/here"}, 404),
        ({"lora_name": "a", "lora_path": "/tmp"}, 400),
        ({"lora_name": "../a", "lora_path": "/tmp"}, 400),
        ({"lora_name": "a\nb", "lora_path": "/tmp"}, 400),
        ({"lora_name": "", "lora_path": "/tmp"}, 400),
        ({"lora_name": "tiny", "lora_path": "/tmp"}, 409),
        ({"lora_name": "a", "lora_path": "a\x00b"}, 404),
        ({"lora_name": "a", "lora_path": "a" * 5000}, 404),
        ({"lora_name": "a", "lora_path": "~no-such-user/a"}, 404),
        ({"lora_name": "a", "lora_path": ""}, 400),
        ({"lora_name": "a/../b", "lora_path": "/tmp"}, 400),
        ({"lora_name": "a b", "lora_path": "/tmp"}, 400),
        ({"lora_name": "a"}, 400),
        ({"lora_name": 5, "lora_path": "/tmp"}, 400),
    ],
)
def test_what_cannot_be_loaded_is_a_mistake_of_the_client(lora_server: LiveServer, body: Any, status: int) -> None:
    before = names(lora_server)
    answer = post(lora_server, LOAD, **body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
    assert names(lora_server) == before


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "a" * 100_000])
def test_no_text_is_an_error_of_the_server(lora_server: LiveServer, text: str) -> None:
    for path, body in ((LOAD, {"lora_name": "a", "lora_path": text}), (LOAD, {"lora_name": text, "lora_path": "/"})):
        assert httpx.post(lora_server.url + path, content=json.dumps(body)).status_code in (400, 404, 422)
    found = httpx.post(lora_server.url + UNLOAD, content=json.dumps({"lora_name": text}))
    assert found.status_code in (400, 404, 422), found.text


def test_the_same_folder_by_another_path_is_the_same(lora_server: LiveServer, base: Base, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(base.adapters["first"])
    assert post(lora_server, LOAD, lora_name="first", lora_path=str(link)).status_code == 200


def test_changes_during_traffic(lora_server: LiveServer, base: Base) -> None:
    """No request fails, and none has the text of another adapter."""
    right = {alone(base, "second"), alone(base, "third")}
    assert post(lora_server, LOAD, lora_name="y", lora_path=str(base.adapters["second"])).status_code == 200
    plain = text(lora_server, "tiny")
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(text, lora_server, "y" if i % 2 else "tiny") for i in range(60)]
        for i in range(20):
            source = str(base.adapters["third" if i % 2 else "second"])
            assert post(lora_server, LOAD, lora_name="y", lora_path=source, load_inplace=True).status_code == 200
        found = [future.result() for future in asked]
    assert set(found[::2]) == {plain}
    assert set(found[1::2]) <= right
    assert post(lora_server, UNLOAD, lora_name="y").status_code == 200


def test_a_new_worker_has_the_adapters_of_the_one_before(lora_server: LiveServer, base: Base, tmp_path: Path) -> None:
    """Those that were loaded and replaced since the start, and none that were unloaded or that are not there now."""
    gone = shutil.copytree(base.adapters["third"], tmp_path / "gone")
    for name, folder in (("z", base.adapters["second"]), ("lost", gone)):
        assert post(lora_server, LOAD, lora_name=name, lora_path=str(folder)).status_code == 200
    shutil.rmtree(gone)
    third = str(base.adapters["third"])
    assert post(lora_server, LOAD, lora_name="first", lora_path=third, load_inplace=True).status_code == 200
    kill_worker(lora_server)
    assert names(lora_server) == {"tiny": None, "first": "tiny", "z": "tiny"}
    assert text(lora_server, "first") == alone(base, "third")
    assert text(lora_server, "z") == alone(base, "second")
    assert post(lora_server, "/v1/completions", model="lost", prompt=PROMPT).status_code == 404
    assert post(lora_server, UNLOAD, lora_name="first").status_code == 200
    kill_worker(lora_server)
    assert names(lora_server) == {"tiny": None, "z": "tiny"}


def kill_worker(server: LiveServer) -> None:
    worker_of(server).kill()
    server.wait_health(503)
    server.wait_health(200)


@pytest.fixture(scope="module")
def by_name(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a folder of adapters, none of which is loaded at the start."""
    root = tmp_path_factory.mktemp("adapters")
    shutil.copytree(base.adapters["first"], root / "team" / "first")
    shutil.copytree(base.adapters["second"], root / "second")
    shutil.copytree(base.adapters["third"], root / "broken")
    (root / "broken" / "adapter_model.safetensors").write_bytes(b"nonsense")
    (root / "outside").symlink_to(base.adapters["third"])
    lora = ("--enable-lora", "--lora-dir", str(root), "--max-num-loras", "1")
    server = LiveServer("--model", str(base.folder), "--served-model-name", "tiny", *lora, env=ONE_THREAD)
    try:
        yield server.wait_ready()
    finally:
        assert server.stop() == 0


def test_an_adapter_is_loaded_when_it_is_first_asked_for(by_name: LiveServer, base: Base) -> None:
    """Once, however many ask; and again after it was unloaded."""
    assert names(by_name) == {"tiny": None}
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(text, by_name, ("team/first", "second", "tiny")[i % 3]) for i in range(12)]
        found = [future.result() for future in asked]
    expected = [alone(base, name) for name in ("first", "second", "")]
    assert found == expected * 4
    assert names(by_name) == {"tiny": None, "team/first": "tiny", "second": "tiny"}
    loads = [line for line in by_name.lines if "loaded, generation" in line]
    assert len(loads) == 2
    assert post(by_name, UNLOAD, lora_name="second").status_code == 200
    assert text(by_name, "second") == expected[1]
    path = httpx.post(by_name.url + "/v2/models/team/first/generate", json={"text_input": PROMPT}, timeout=60)
    assert path.status_code == 200


def test_a_broken_one_says_why_and_others_are_not_there(by_name: LiveServer) -> None:
    for _ in range(2):
        answer = post(by_name, "/v1/completions", model="broken", prompt=PROMPT)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, "model")
        assert "the adapter" in error["message"]
        assert "cannot be served" in error["message"]
    for name in ("outside", "nothing", "team", "../second", "second/.", "second/", "a\x00b", "a" * 1000):
        answer = post(by_name, "/v1/completions", model=name, prompt=PROMPT)
        assert answer.status_code == (400 if name == "team" else 404), answer.text
    assert set(names(by_name)) <= {"tiny", "team/first", "second"}
    assert text(by_name, "tiny", tokens=2)


def test_memory_holds_so_many_and_texts_are_those_of_the_files(base: Base, tmp_path: Path) -> None:
    """One that makes room and comes back has the file that is there then, also behind a prefix that was computed."""
    for name in ("second", "third"):
        shutil.copytree(base.adapters[name], tmp_path / name)
    first = f"first={base.adapters['first']}"
    lora = ("--enable-lora", "--lora-paths", first, "--lora-dir", str(tmp_path), "--max-cpu-loras", "2")
    server = LiveServer("--model", str(base.folder), "--served-model-name", "tiny", *lora, env=ONE_THREAD)
    expected = {name: alone(base, name) for name in ("first", "second", "third")}
    try:
        server.wait_ready()
        for name in ("second", "third", "first", "second"):
            assert text(server, name) == expected[name]
            assert len(names(server)) <= 3
        assert "maxserve_num_loaded_adapters{" in httpx.get(server.url + "/metrics").text
        assert loaded(server) == 2
        assert text(server, "third") == expected["third"]
        shutil.copytree(base.adapters["third"], tmp_path / "second", dirs_exist_ok=True)
        assert text(server, "second") == expected["third"], "what is there now"
        with ThreadPoolExecutor(6) as threads:
            asked = [(name, threads.submit(patient_text, server, name)) for name in ("third", "first", "second") * 6]
            assert {(name, future.result()) for name, future in asked} == {
                ("first", expected["first"]),
                ("second", expected["third"]),
                ("third", expected["third"]),
            }
        assert loaded(server) == 2
        assert post(server, LOAD, lora_name="mine", lora_path="third").status_code == 200
        full = post(server, LOAD, lora_name="yours", lora_path="third")
        assert (full.status_code, "--max-cpu-loras is 2" in full.text) == (409, True)
        assert post(server, "/v1/completions", model="second", prompt=PROMPT).status_code == 503
        assert names(server) == {"tiny": None, "first": "tiny", "mine": "tiny"}
        assert post(server, UNLOAD, lora_name="mine").status_code == 200
        assert text(server, "second") == expected["third"]
    finally:
        assert server.stop() == 0


def loaded(server: LiveServer) -> float:
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("maxserve_num_loaded_adapters{"))


def patient_text(server: LiveServer, model: str) -> str:
    """As a client has it that asks again where there is no room now."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    for _ in range(500):
        answer = post(server, "/v1/completions", **body)
        if answer.status_code == 200:
            return str(answer.json()["choices"][0]["text"])
        assert (answer.status_code, "--max-cpu-loras" in answer.text) == (503, True), answer.text
        time.sleep(0.02)
    raise AssertionError(f"there was never room for {model}")


def test_two_processes_that_share_the_model_have_them(start: Any, base: Base) -> None:
    """Loaded, replaced and unloaded beside a stream that goes on."""
    lora = ("--enable-lora", "--max-num-loras", "2", "--served-model-name", "tiny")
    server = start("--model", str(base.folder), "--devices", "cpu:0,1", *lora).wait_ready()
    second, third = str(base.adapters["second"]), str(base.adapters["third"])
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 300, "temperature": 0, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert post(server, LOAD, lora_name="x", lora_path=second).status_code == 200
        assert text(server, "x") == alone(base, "second")
        assert post(server, LOAD, lora_name="x", lora_path=third, load_inplace=True).status_code == 200
        assert text(server, "x") == alone(base, "third")
        assert post(server, UNLOAD, lora_name="x").status_code == 200
        assert "error" not in [*filter(None, lines)][-2]
    assert names(server) == {"tiny": None}
    assert text(server, "tiny") == alone(base, "")


def test_without_lora_there_is_none(server: LiveServer) -> None:
    assert post(server, LOAD, lora_name="a", lora_path="/tmp").status_code == 400
    assert post(server, UNLOAD, lora_name="a").status_code == 400
