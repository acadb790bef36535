"""OpenAI's official client and LangChain's against a real server with a random model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import jsonschema
import langchain_openai
import openai
import pydantic
import pytest

from maxserve.testing.live import LiveServer

USER: Any = {"role": "user", "content": "Hi"}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TIME: dict[str, Any] = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC", "CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}},
    {"type": "function", "function": {"name": "time", "parameters": TIME}},
]
SCHEMAS = {"weather": CITY, "time": TIME}


class Forecast(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    sky: Literal["clear", "grey"]
    warm: bool


@pytest.fixture(scope="module")
def server(model_folder: Callable[..., Path], serving: Any) -> Iterator[LiveServer]:
    """With room for the description of tools, which the tiny model's tokenizer makes long."""
    folder = model_folder(max_position_embeddings=2048)
    options = ("--model", str(folder), "--served-model-name", "tiny", "--max-batch-size", "8", "--api-key", "sesame")
    with serving(*options) as server:
        yield server


@pytest.fixture
def official(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="sesame", max_retries=0) as client:
        yield client


def test_a_wrong_key(server: LiveServer) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="open", max_retries=0)
    with client, pytest.raises(openai.AuthenticationError):
        client.models.list()


def check_calls(calls: list[tuple[str, str]]) -> None:
    assert calls
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "time"}}])
@pytest.mark.parametrize("seed", range(3))
def test_calls_that_must_be_made(official: openai.OpenAI, choice: Any, seed: int) -> None:
    asked: Any = {"model": "tiny", "messages": [USER], "tools": TOOLS, "tool_choice": choice, "max_tokens": 1500}
    whole = official.chat.completions.create(**asked, seed=seed)
    message = whole.choices[0].message
    assert whole.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    calls = [
        (call.function.name, call.function.arguments) for call in message.tool_calls or [] if call.type == "function"
    ]
    check_calls(calls)
    streamed: dict[int, list[str]] = {}
    for chunk in official.chat.completions.create(**asked, seed=seed, stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            assert delta.function is not None
            if delta.id:
                assert delta.index not in streamed
                streamed[delta.index] = [str(delta.function.name), ""]
            streamed[delta.index][1] += delta.function.arguments or ""
    assert [tuple(call) for _, call in sorted(streamed.items())] == calls


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 8, 30])
def test_a_forced_call_that_is_cut_off_has_no_content(official: openai.OpenAI, limit: int) -> None:
    """What the constraint makes of a call is nothing that the client asked for."""
    for choice in ("required", "any", {"type": "function", "function": {"name": "weather"}}):
        asked: Any = {"model": "tiny", "messages": [USER], "tools": TOOLS, "tool_choice": choice, "max_tokens": limit}
        (whole,) = official.chat.completions.create(**asked, seed=1).choices
        assert not whole.message.content
        if whole.finish_reason == "length":
            streamed = [c.choices[0] for c in official.chat.completions.create(**asked, seed=1, stream=True)]
            assert "".join(each.delta.content or "" for each in streamed) == ""
            assert streamed[-1].finish_reason == "length"


def test_a_function_without_parameters_takes_none(official: openai.OpenAI) -> None:
    clock: Any = {"type": "function", "function": {"name": "clock"}}
    for choice in ("required", clock):
        asked: Any = {"messages": [USER], "tools": [clock], "tool_choice": choice, "parallel_tool_calls": False}
        for seed in range(3):
            answer = official.chat.completions.create(model="tiny", **asked, seed=seed, temperature=1.5, max_tokens=300)
            [call] = answer.choices[0].message.tool_calls or []
            assert call.type == "function"
            assert (call.function.name, json.loads(call.function.arguments)) == ("clock", {})


def test_one_call_at_most(official: openai.OpenAI) -> None:
    for seed in range(4):
        answer = official.chat.completions.create(
            model="tiny", messages=[USER], tools=TOOLS, tool_choice="required", parallel_tool_calls=False, seed=seed
        )
        assert len(answer.choices[0].message.tool_calls or []) == 1


def test_a_conversation_with_calls_goes_on(official: openai.OpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": '{"zone": "UTC"}'}}
    turns: Any = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "12:00"},
    ]
    for choice in ("auto", "none"):
        answer = official.chat.completions.create(
            model="tiny", messages=turns, tools=TOOLS, tool_choice=choice, max_tokens=10
        )
        assert answer.choices[0].finish_reason in ("length", "stop")


def test_parse(official: openai.OpenAI) -> None:
    answer = official.chat.completions.parse(model="tiny", messages=[USER], response_format=Forecast, seed=1)
    parsed = answer.choices[0].message.parsed
    assert parsed is not None
    assert parsed.sky in ("clear", "grey")


def test_logprobs_of_a_chat(official: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "messages": [USER], "max_tokens": 8, "temperature": 0, "logprobs": True}
    whole = official.chat.completions.create(**asked, top_logprobs=3)
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 8
    for entry in logprobs.content:
        assert entry.top_logprobs[0].token == entry.token  # greedy
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob)
    said = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
    assert said.decode(errors="replace") == whole.choices[0].message.content
    streamed = []
    for chunk in official.chat.completions.create(**asked, top_logprobs=3, stream=True):
        found = chunk.choices[0].logprobs
        streamed += found.content or [] if found else []
    assert streamed == logprobs.content


def test_scoring_a_prompt(official: openai.OpenAI) -> None:
    asked: Any = {"model": "tiny", "prompt": "the quick brown fox", "echo": True, "logprobs": 2}
    scored = official.completions.create(**asked, max_tokens=0).choices[0]
    assert scored.text == "the quick brown fox"
    assert scored.finish_reason == "length"
    logprobs = scored.logprobs
    assert logprobs is not None
    assert logprobs.tokens
    assert logprobs.token_logprobs
    assert logprobs.text_offset
    assert logprobs.token_logprobs[0] is None
    assert all(math.isfinite(logprob) and logprob < 0 for logprob in logprobs.token_logprobs[1:])
    assert "".join(logprobs.tokens) == "the quick brown fox"
    assert all(scored.text[at:].startswith(t) for at, t in zip(logprobs.text_offset, logprobs.tokens, strict=True))
    continued = official.completions.create(**asked, max_tokens=3, temperature=0).choices[0]
    assert continued.text.startswith(scored.text)
    assert continued.logprobs is not None
    assert continued.logprobs.token_logprobs is not None
    assert continued.logprobs.token_logprobs[1:][: len(logprobs.tokens) - 1] == pytest.approx(
        logprobs.token_logprobs[1:]
    )


def test_token_ids_join_to_the_text(official: openai.OpenAI) -> None:
    extra: Any = {"return_token_ids": True}
    answer: Any = official.chat.completions.create(
        model="tiny", messages=[USER], max_tokens=6, seed=2, extra_body=extra
    )
    assert len(answer.choices[0].token_ids) == answer.usage.completion_tokens
    assert len(answer.prompt_token_ids) == answer.usage.prompt_tokens
    chunks: list[Any] = list(
        official.chat.completions.create(
            model="tiny", messages=[USER], max_tokens=6, seed=2, stream=True, extra_body=extra
        )
    )
    assert chunks[0].prompt_token_ids == answer.prompt_token_ids
    assert [i for c in chunks for i in getattr(c.choices[0], "token_ids", None) or []] == answer.choices[0].token_ids


@pytest.fixture
def langchain(server: LiveServer) -> langchain_openai.ChatOpenAI:
    key = pydantic.SecretStr("sesame")
    return langchain_openai.ChatOpenAI(model="tiny", base_url=f"{server.url}/v1", api_key=key, seed=7, max_retries=0)


def test_langchain_chats_and_streams(langchain: langchain_openai.ChatOpenAI) -> None:
    whole = langchain.invoke("Hi", max_tokens=12)
    streamed = "".join(str(chunk.content) for chunk in langchain.stream("Hi", max_tokens=12))
    assert streamed == whole.content


def test_langchain_calls_and_parses(langchain: langchain_openai.ChatOpenAI) -> None:
    bound = langchain.bind_tools(TOOLS, tool_choice="weather")
    [call] = bound.invoke("Hi", max_tokens=200).tool_calls  # type: ignore[attr-defined]
    assert call["name"] == "weather"
    jsonschema.validate(call["args"], CITY)
    parsed = langchain.with_structured_output(Forecast, method="json_schema").invoke("Hi")
    assert isinstance(parsed, Forecast)
