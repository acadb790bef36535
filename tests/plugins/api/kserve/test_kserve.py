from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from maxserve.core.interfaces.errors import QueueFullError, WorkerDied

pytestmark = pytest.mark.anyio

MODEL = "/v2/models/acme/tiny"


def tensor(*texts: Any, shape: Any = None, **changes: Any) -> dict[str, Any]:
    return {"name": "text_input", "shape": shape or [len(texts)], "datatype": "BYTES", "data": list(texts), **changes}


async def test_facts(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2")).json()["name"] == "maxserve"
    for path in (MODEL, f"{MODEL}/versions/1", "/v2/models/tiny", "/v2/models/acme%2Ftiny"):
        model = (await client.get(path)).json()
        assert (model["name"], model["versions"], model["platform"]) == ("acme/tiny", ["1"], "pytorch")
        assert model["inputs"] == [{"name": "text_input", "datatype": "BYTES", "shape": [-1]}]
        ready = await client.get(f"{path}/ready")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)


@pytest.mark.parametrize("path", ["other", "acme/tiny/versions/2", "acme"])
@pytest.mark.parametrize("end", ["", "/ready", "/infer", "/generate", "/generate_stream"])
async def test_other_models(client: httpx.AsyncClient, path: str, end: str) -> None:
    body = {"inputs": [tensor("a")], "text_input": "a"}
    url = f"/v2/models/{path}{end}"
    response = await (client.get(url) if end in ("", "/ready") else client.post(url, json=body))
    assert response.status_code == 404
    assert "does not exist" in response.json()["error"]


@pytest.mark.parametrize("model", [MODEL, f"{MODEL}/versions/1"])
async def test_infer(client: httpx.AsyncClient, engine: Any, recorder: Any, model: str) -> None:
    parameters = {"max_tokens": 5, "temperature": 0.1, "stop": ["zzz"], "user": "ann"}
    body = {"id": "q", "inputs": [tensor("one", "two")], "parameters": parameters}
    response = await client.post(f"{model}/infer", json=body)
    assert response.status_code == 200, response.text
    assert response.json() == {
        "id": "q",
        "model_name": "acme/tiny",
        "model_version": "1",
        "outputs": [
            {"name": "text_output", "datatype": "BYTES", "shape": [2], "data": ["Hello", "Hello"]},
            {"name": "finish_reason", "datatype": "BYTES", "shape": [2], "data": ["length", "length"]},
        ],
    }
    assert [engine.tokenizer.decode(request.prompt) for request in engine.requests] == ["one", "two"]
    assert {request.user for request in engine.requests} == {"ann"}
    assert engine.requests[0].params.fields["temperature"] == {"temperature": 0.1}
    assert [stats.generated_tokens for stats in recorder.stats] == [10]


async def test_columns_and_wished_outputs(client: httpx.AsyncClient) -> None:
    body = {
        "inputs": [tensor(["a"], ["b"], shape=[2, 1], name="prompt")],
        "outputs": [{"name": "text_output"}],
        "parameters": {"stop": "there"},
    }
    [output] = (await client.post(f"{MODEL}/infer", json=body)).json()["outputs"]
    assert (output["shape"], output["data"]) == ([2, 1], ["Hello ", "Hello "])


@pytest.mark.parametrize("beside", [False, True])
async def test_generate(client: httpx.AsyncClient, beside: bool) -> None:
    fields = {"max_tokens": 5}
    body = {"id": "q", "text_input": "a", **(fields if beside else {"parameters": fields})}
    assert (await client.post(f"{MODEL}/generate", json=body)).json() == {
        "id": "q",
        "model_name": "acme/tiny",
        "model_version": "1",
        "text_output": "Hello",
        "finish_reason": "length",
    }


def events(text: str) -> list[Any]:
    return [json.loads(event.removeprefix("data: ")) for event in text[:-2].split("\n\n")]


async def test_generate_stream(client: httpx.AsyncClient, engine: Any) -> None:
    engine.step = 3
    body = {"text_input": "a", "parameters": {"max_tokens": 50, "wizardry": 1}}
    response = await client.post(f"{MODEL}/generate_stream", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    told = events(response.text)
    assert "".join(event["text_output"] for event in told) == "Hello there, friend."
    assert [event.get("finish_reason") for event in told] == [None] * (len(told) - 1) + ["stop"]
    assert ["warnings" in event for event in told] == [True] + [False] * (len(told) - 1)


async def test_a_failure_within_a_stream(client: httpx.AsyncClient, engine: Any) -> None:
    engine.failure = WorkerDied("gone")
    body = {"text_input": "a", "parameters": {"max_tokens": 50}}
    told = events((await client.post(f"{MODEL}/generate_stream", json=body)).text)
    assert told[-1].keys() == {"error"}


@pytest.mark.parametrize("end", ["infer", "generate", "generate_stream"])
async def test_a_full_queue(client: httpx.AsyncClient, engine: Any, end: str) -> None:
    engine.refusal = QueueFullError("too many", retry_after=3)
    response = await client.post(f"{MODEL}/{end}", json={"inputs": [tensor("a")], "text_input": "a"})
    assert (response.status_code, response.headers["Retry-After"]) == (429, "3")
    assert response.json() == {"error": "too many"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"inputs": None}, "inputs"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [tensor("a"), tensor("b")]}, "inputs"),
        ({"inputs": [tensor("a", name="x")]}, "inputs[0].name"),
        ({"inputs": [tensor(1, datatype="INT32")]}, "inputs[0].datatype"),
        ({"inputs": [tensor(1)]}, "inputs[0].data"),
        ({"inputs": [tensor(shape=[0])]}, "inputs[0].data"),
        ({"inputs": [tensor("a", shape=[2])]}, "inputs[0].shape"),
        ({"inputs": [tensor("a", "b", shape=[1, 2])]}, "inputs[0].shape"),
        ({"inputs": [tensor("a", data=None)]}, "inputs[0].data"),
        ({"outputs": [{"name": "logits"}]}, "outputs[0].name"),
        ({"outputs": [{"name": "text_output", "parameters": {"binary_data": True}}]}, "binary_data"),
        ({"parameters": {"max_tokens": 0}}, "max_tokens"),
        ({"parameters": {"temperature": 9}}, "temperature"),
        ({"parameters": {"n": 2}}, "n:"),
        ({"parameters": {"stream": True}}, "stream"),
        ({"parameters": {"logprobs": 2}}, "logprobs"),
        ({"inputs": [tensor("x" * 300)]}, "text_input"),
        ({"parameters": []}, "parameters"),
    ],
)
async def test_refusals(client: httpx.AsyncClient, fields: Any, named: str) -> None:
    response = await client.post(f"{MODEL}/infer", json={"inputs": [tensor("a")], **fields})
    assert response.status_code == 400, response.text
    assert response.json().keys() == {"error"}
    assert named in response.json()["error"]


async def test_paths_say_what_is_in_them(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    named = [p["name"] for p in paths["/v2/models/{name}/versions/{version}/infer"]["post"]["parameters"]]
    assert named == ["name", "version"]
