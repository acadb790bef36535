"""Blocks of content, in and out: what the chat template is given, and what becomes of reasoning and calls."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx
import pytest

from maxserve.core.interfaces.parsers import CallDelta
from maxserve.plugins.api.anthropic.bodies import MessageBody
from maxserve.plugins.api.anthropic.conversation import messages_of
from maxserve.plugins.api.anthropic.events import MessageEvents, blocks, ending, message
from maxserve.plugins.api.anthropic.translation import MessageTranslation
from maxserve.plugins.api.common import answering
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.answering import Answering
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.meter import Meter

pytestmark = pytest.mark.anyio

USER = {"role": "user", "content": "Hi"}


def body(**fields: Any) -> MessageBody:
    return MessageBody.model_validate({"max_tokens": 50, "messages": [USER], **fields})


def test_a_round_trip_of_tools_becomes_messages() -> None:
    turns = [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Ask.", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Köln"}},
                {"type": "tool_use", "id": "t2", "name": "time", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "rain"},
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "no"}],
                },
                {"type": "tool_result", "tool_use_id": "t9"},
                {"type": "text", "text": "And?"},
            ],
        },
    ]
    assert messages_of(body(messages=turns, system="S")) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Ask.",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}},
                {"id": "t2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "rain", "name": "weather"},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no", "name": "time"},
        {"role": "tool", "tool_call_id": "t9", "content": ""},
        {"role": "user", "content": "And?"},
    ]


def deltas() -> list[TextDelta]:
    return [
        TextDelta(tokens=(1,), reasoning="Let me "),
        TextDelta(tokens=(2,), reasoning="see."),
        TextDelta(tokens=(3,), text="I look."),
        TextDelta(tokens=(4,), calls=(CallDelta(index=0, id="c1", name="add", arguments='{"a"'),)),
        TextDelta(tokens=(5,), calls=(CallDelta(index=0, arguments=":1}"),)),
        TextDelta(tokens=(6,), calls=(CallDelta(index=1, id="c2", name="sub", arguments="{}"),)),
        TextDelta(tokens=(7,), finish="stop", called=True),
    ]


CONTENT = [
    {"type": "thinking", "thinking": "Let me see.", "signature": hashlib.sha256(b"Let me see.").hexdigest()},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1}},
    {"type": "tool_use", "id": "c2", "name": "sub", "input": {}},
]


def test_reasoning_and_calls_are_blocks() -> None:
    answer = Answer()
    for delta in deltas():
        answer.add(delta)
    assert blocks(answer) == CONTENT
    assert ending(answer.finish, answer.stop) == {"stop_reason": "tool_use", "stop_sequence": None}


def streamed() -> bytes:
    meter = Meter((), "/v1/messages")
    encoder = MessageEvents(message("r", "tiny", meter, ()), "r", meter)
    return (
        encoder.opening() + b"".join(encoder.delta(0, delta) for delta in deltas()) + encoder.closing(0, deltas()[-1])
    )


def test_reasoning_and_calls_are_streamed_as_blocks(events: Any) -> None:
    told = events(streamed().decode())
    assert [e["index"] for e in told if e["type"] == "content_block_start"] == [0, 1, 2, 3]
    assert [e["index"] for e in told if e["type"] == "content_block_stop"] == [0, 1, 2, 3]
    deltas = [e for e in told if e["type"] == "content_block_delta"]
    joined = ["", "", "", ""]
    [signed] = [delta for delta in deltas if delta["delta"]["type"] == "signature_delta"]
    assert (signed["index"], signed["delta"]["signature"]) == (0, CONTENT[0]["signature"])
    deltas.remove(signed)
    for delta in deltas:
        _, text = sorted(delta["delta"].items(), key=lambda item: item[0] == "type", reverse=True)
        joined[delta["index"]] += text[1]
    assert joined == ["Let me see.", "I look.", '{"a":1}', "{}"]
    assert told[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_call_that_was_cut_off_has_no_input() -> None:
    answer = Answer()
    answer.add(TextDelta(calls=(CallDelta(index=0, id="c", name="f", arguments='{"a": '),)))
    assert blocks(answer)[0]["input"] == {}


def translated(context: Any, **fields: Any) -> tuple[Any, list[str]]:
    return MessageTranslation(Answering(context)).chat_body(body(**fields))


@pytest.mark.parametrize(
    ("choice", "wanted", "parallel"),
    [
        ({"type": "auto"}, "auto", None),
        ({"type": "any", "disable_parallel_tool_use": True}, "required", False),
        ({"type": "none"}, "none", None),
        (
            {"type": "tool", "name": "f", "disable_parallel_tool_use": False},
            {"type": "function", "function": {"name": "f"}},
            True,
        ),
    ],
)
def test_tools_become_functions(context: Any, choice: Any, wanted: Any, parallel: Any) -> None:
    tool = {"name": "f", "description": "d", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}}
    chat, warnings = translated(context, tools=[tool], tool_choice=choice)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    said = chat.model_dump(exclude_none=True)
    assert said["tools"] == [{"type": "function", "function": function}]
    assert said["tool_choice"] == wanted
    assert said.get("parallel_tool_calls") is parallel
    assert warnings == []


def test_a_format_of_the_output_is_a_response_format(context: Any) -> None:
    schema = {"type": "object"}
    chat, _ = translated(context, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert chat.model_dump(by_alias=True)["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("template", "fields", "variables", "warned"),
    [
        ("{{ enable_thinking }}", {"thinking": {"type": "disabled"}}, {"enable_thinking": False}, 0),
        ("{{ enable_thinking }}", {"thinking": {"type": "adaptive"}}, {"enable_thinking": True}, 0),
        ("{{ thinking }}", {"thinking": {"type": "enabled", "budget_tokens": 20}}, {"thinking": True}, 1),
        ("x", {"thinking": {"type": "disabled"}}, None, 1),
        ("{{ reasoning_effort }}", {"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}, 0),
        ("{{ enable_thinking }}", {"output_config": {"effort": "low"}}, {"enable_thinking": True}, 1),
        ("{{ enable_thinking }}", {"chat_template_kwargs": {"a": 1}}, {"a": 1}, 0),
    ],
)
def test_thinking_is_what_the_template_knows(
    context: Any, template: str, fields: Any, variables: Any, warned: int
) -> None:
    import dataclasses

    context = dataclasses.replace(context, template=JinjaTemplate({"default": template}))
    chat, warnings = translated(context, **fields)
    assert chat.chat_template_kwargs == variables
    assert len(warnings) == warned


@pytest.mark.parametrize(
    "fields",
    [
        {"thinking": {"type": "enabled", "budget_tokens": 60}},
        {"thinking": {"type": "enabled"}},
        {"thinking": {"type": "adaptive", "display": "omitted"}},
        {"output_config": {"effort": "max"}},
    ],
)
def test_thinking_that_cannot_be_switched_on_is_warned_of(context: Any, fields: Any) -> None:
    chat, warnings = translated(context, **fields)
    assert chat.chat_template_kwargs is None
    assert "no switch for thinking" in warnings[0]


SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
PDF = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}]}
                ]
            },
            "messages[0].content[0].content[0].source",
        ),
        ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]}]}, "content[0].name"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_k": "many"}, "top_k"),
        ({"stop_sequences": [""]}, "stop_sequences"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"type": "custom", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}}, "web_search_20250305"),
        ({"tools": [SEARCH], "tool_choice": {"type": "any"}}, "web_search_20250305"),
        ({"mcp_servers": [{"type": "url", "url": "http://127.0.0.1:9", "name": "m"}]}, "mcp_servers"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"messages": [{"role": "user", "content": [PDF]}]}, "messages[0].content[0].source"),
        ({"messages": [{"role": "user", "content": [{"type": "container_upload"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"n": 2}, "n:"),
        ({"stop": "x"}, "stop:"),
        ({"logprobs": True}, "logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_refusals(client: httpx.AsyncClient, message: Any, fields: Any, named: str, stream: bool) -> None:
    response = await client.post("/v1/messages", json=message(stream=stream, **fields))
    assert response.status_code == 400, response.text
    error = response.json()
    assert (error["type"], error["error"]["type"]) == ("error", "invalid_request_error")
    assert named in error["error"]["message"]


@pytest.fixture
def official(server: str) -> Any:
    with anthropic.Anthropic(base_url=server, api_key="secret", max_retries=0) as client:
        yield client


MESSAGES: list[Any] = [USER]


def test_official_client(official: anthropic.Anthropic, engine: Any) -> None:
    answer = official.messages.create(model="acme/tiny", max_tokens=50, messages=MESSAGES)
    assert [block.type for block in answer.content] == ["text"]
    assert answer.content[0].text == "Hello there, friend."  # type: ignore[union-attr]
    assert answer.stop_reason == "end_turn"
    assert answer._request_id
    assert engine.requests[0].user.startswith("key-")
    counted = official.messages.count_tokens(model="acme/tiny", messages=MESSAGES)
    assert counted.input_tokens == answer.usage.input_tokens


def test_official_client_streams(official: anthropic.Anthropic) -> None:
    with official.messages.stream(
        model="acme/tiny", max_tokens=50, messages=MESSAGES, stop_sequences=["friend"]
    ) as stream:
        assert "".join(stream.text_stream) == "Hello there, "
        final = stream.get_final_message()
    assert (final.stop_reason, final.stop_sequence) == ("stop_sequence", "friend")
    assert final.usage.output_tokens == 19


def test_official_client_raises_what_it_should(official: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        official.messages.create(model="claude", max_tokens=50, messages=MESSAGES)
    with pytest.raises(anthropic.BadRequestError, match="context of 256"):
        official.messages.create(model="acme/tiny", max_tokens=50, messages=[{"role": "user", "content": "x" * 300}])


def test_official_client_round_trip_of_tools(official: anthropic.Anthropic, engine: Any) -> None:
    """The conversation as the client sends it back; the answer's own calls are tested above."""
    turns: list[Any] = [
        USER,
        {"role": "assistant", "content": CONTENT[:3]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "2"}]},
    ]
    answer = official.messages.create(model="acme/tiny", max_tokens=9, messages=turns)
    assert answer.stop_reason == "max_tokens"
    prompt = engine.tokenizer.decode(engine.requests[0].prompt)
    assert prompt == "user: Hi\nassistant: I look.\ntool: 2\nassistant:"


@pytest.mark.parametrize("stream", [False, True])
def test_official_client_gets_reasoning_and_calls(
    official: anthropic.Anthropic, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    async def said(*_: Any) -> AsyncIterator[tuple[int, TextDelta]]:
        for delta in deltas():
            yield 0, delta

    monkeypatch.setattr(answering, "generate_text", said)
    asked: Any = {"model": "acme/tiny", "max_tokens": 9, "messages": MESSAGES}
    if stream:
        with official.messages.stream(**asked) as told:
            final: Any = told.get_final_message()
    else:
        final = official.messages.create(**asked)
    assert [block.model_dump(include=set(c)) for block, c in zip(final.content, CONTENT, strict=True)] == CONTENT
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize("stream", [False, True])
def test_a_limit_beyond_the_context_ends_where_the_context_does(
    official: anthropic.Anthropic, engine: Any, stream: bool
) -> None:
    """Agents send the same large limit to every model; it bounds the answer, and so does the context."""
    engine.reply = lambda request: [65] * 5000
    asked: Any = {"model": "acme/tiny", "max_tokens": 32_000, "messages": MESSAGES}
    if stream:
        with official.messages.stream(**asked) as told:
            final: Any = told.get_final_message()
    else:
        final = official.messages.create(**asked, timeout=60)
    assert final.stop_reason == "model_context_window_exceeded"
    assert final.usage.input_tokens + final.usage.output_tokens == 256
    assert engine.requests[0].params.max_tokens == 256 - final.usage.input_tokens


def test_the_official_tool_runner_goes_on_without_threads(official: anthropic.Anthropic, engine: Any) -> None:
    """It asks for a conversation kept at the server first, and sends the whole of it once that is refused so."""
    asked: Any = {"model": "acme/tiny", "max_tokens": 50, "messages": MESSAGES, "tools": []}
    final = official.beta.messages.tool_runner(**asked).until_done()
    assert final.content[0].text == "Hello there, friend."  # type: ignore[union-attr]
    assert len(engine.requests) == 1
