"""Every dialect against a real server with a random model: the official clients, tools and schemas included."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import anthropic
import httpx
import openai
import pydantic
import pytest

from maxserve.testing.live import LiveServer

USER: Any = {"role": "user", "content": "Hi"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"unit": {"enum": ["C", "F"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["unit", "days"],
    "additionalProperties": False,
}


class Weather(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    unit: Literal["C", "F"]
    warm: bool


def check_arguments(given: Any) -> None:
    assert given.keys() == {"unit", "days"}
    assert given["unit"] in ("C", "F")
    assert 1 <= given["days"] <= 9


@pytest.fixture(scope="module")
def server(model_folder: Callable[..., Path], serving: Any) -> Iterator[LiveServer]:
    """With room for the description of tools, which the tiny model's tokenizer makes long."""
    folder = model_folder(max_position_embeddings=2048)
    options = ("--model", str(folder), "--served-model-name", "tiny", "--max-batch-size", "8")
    with serving(*options) as server:
        yield server


@pytest.fixture
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def official(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_messages_streamed_and_not_are_the_same(claude: anthropic.Anthropic) -> None:
    asked: Any = {"model": "tiny", "max_tokens": 20, "messages": [USER], "extra_body": {"seed": 5}}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert [block.text for block in streamed.content] == [block.text for block in whole.content]  # type: ignore[union-attr]
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens
    counted = claude.messages.count_tokens(model="tiny", messages=[USER])
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_that_must_call_a_tool(claude: anthropic.Anthropic, stream: bool) -> None:
    tool = {"name": "weather", "description": "The weather.", "input_schema": SCHEMA}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    asked: Any = {"model": "tiny", "max_tokens": 150, "messages": [USER], "tools": [tool], "tool_choice": choice}
    if stream:
        with claude.messages.stream(**asked) as told:
            answer: Any = told.get_final_message()
    else:
        answer = claude.messages.create(**asked)
    [block] = answer.content
    assert (block.type, block.name, answer.stop_reason) == ("tool_use", "weather", "tool_use")
    check_arguments(block.input)
    back: list[Any] = [
        USER,
        {"role": "assistant", "content": [block.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": block.id, "content": "rain"}]},
    ]
    again = claude.messages.create(model="tiny", max_tokens=5, messages=back, tools=asked["tools"])
    assert again.usage.output_tokens <= 5


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_that_must_call_a_function(official: openai.OpenAI, stream: bool) -> None:
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    asked: Any = {"model": "tiny", "input": "Hi", "tools": [tool], "max_output_tokens": 150}
    asked["tool_choice"] = {"type": "function", "name": "weather"}
    if stream:
        with official.responses.stream(**asked) as told:
            answer: Any = told.get_final_response()
    else:
        answer = official.responses.create(**asked)
    [call] = answer.output
    assert (call.type, call.name, answer.status) == ("function_call", "weather", "completed")
    check_arguments(json.loads(call.arguments))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    back: Any = [
        USER,
        call.model_dump(exclude_none=True, include={"type", "id", "call_id", "name", "arguments"}),
        result,
    ]
    again = official.responses.create(model="tiny", input=back, tools=[tool], max_output_tokens=5)  # type: ignore[list-item]
    assert again.usage is not None
    assert again.usage.output_tokens <= 5


def test_a_response_is_parsed(official: openai.OpenAI) -> None:
    answer = official.responses.parse(model="tiny", input="Hi", text_format=Weather, max_output_tokens=100)
    assert isinstance(answer.output_parsed, Weather)


def test_responses_streamed_and_not_are_the_same(official: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "input": "Hi", "max_output_tokens": 20, "extra_body": {"seed": 5}}
    whole = official.responses.create(**asked)
    events = list(official.responses.create(**asked, stream=True))
    final: Any = events[-1]
    assert final.response.output_text == whole.output_text
    assert final.response.status == whole.status


def test_the_same_text_by_every_other_path(server: LiveServer) -> None:
    fields = {"max_tokens": 12, "seed": 7, "temperature": 0.5}
    base = f"{server.url}/v2/models/tiny"
    completion = httpx.post(f"{server.url}/v1/completions", json={"prompt": "once", **fields}).json()
    invoked = httpx.post(f"{server.url}/invocations", json={"prompt": "once", **fields}).json()
    tensor = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["once"]}
    inferred = httpx.post(f"{base}/infer", json={"inputs": [tensor], "parameters": fields}).json()
    generated = httpx.post(f"{base}/generate", json={"text_input": "once", "parameters": fields}).json()
    streamed = httpx.post(f"{base}/generate_stream", json={"text_input": "once", "parameters": fields}).text
    pieces = [json.loads(line.removeprefix("data: ")) for line in streamed.strip().split("\n\n")]
    texts = [
        completion["choices"][0]["text"],
        invoked["choices"][0]["text"],
        inferred["outputs"][0]["data"][0],
        generated["text_output"],
        "".join(piece["text_output"] for piece in pieces),
    ]
    assert len(set(texts)) == 1
    assert texts[0]
