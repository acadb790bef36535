"""Reasoning and calls through every API for chats: what is asked for reaches the template, and answers agree."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import httpx
import pytest

from maxserve.core.http.app import create_app
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from tests.plugins.api.dialects.conftest import ROUTERS

pytestmark = pytest.mark.anyio

TEMPLATE = """\
effort={{ reasoning_effort | default('-') }} thinking={{ enable_thinking | default('-') }};
{{- tools }}
{%- for m in messages %}<|turn|>{{ m.role }}: {{ m.content }}{% if not loop.last %}</s>{% endif %}{% endfor %}
{%- if add_generation_prompt %}</s><|turn|>assistant: {% endif %}
{#- <think></think> <tool_call> #}"""

PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
USER = {"role": "user", "content": "What does <think> mean?"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}


@pytest.fixture
def app(context: ServerContext) -> Any:
    """A model that thinks, with tools."""
    model = dataclasses.replace(context.model, max_length=4096)
    context = dataclasses.replace(context, model=model, template=JinjaTemplate({"default": TEMPLATE}))
    return create_app(context, [("/", router(context), f"builtin.{name}") for name, router in ROUTERS.items()])


def body(path: str, *messages: dict[str, Any], tools: bool = False, **fields: Any) -> dict[str, Any]:
    said: dict[str, Any] = {"input" if path == "/v1/responses" else "messages": list(messages or [USER]), **fields}
    said["max_output_tokens" if path == "/v1/responses" else "max_tokens"] = 500
    if tools:
        flat = {"type": "function", "name": "weather", "parameters": SCHEMA}
        ours = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
        claude = {"name": "weather", "input_schema": SCHEMA}
        said["tools"] = [{"/v1/responses": flat, "/v1/messages": claude}.get(path, ours)]
    return said


async def prompt(client: httpx.AsyncClient, engine: Any, path: str, **fields: Any) -> str:
    answer = await client.post(path, json=body(path, **fields))
    assert answer.status_code == 200, answer.text
    return str(engine.tokenizer.decode(engine.requests[-1].prompt, skip_special_tokens=False))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "effort=- thinking=-"),
        ({"reasoning_effort": "high"}, "effort=high thinking=True"),
        ({"reasoning_effort": "none"}, "effort=- thinking=False"),
        ({"enable_thinking": False}, "effort=- thinking=False"),
        ({"chat_template_kwargs": {"reasoning_effort": "low"}}, "effort=low thinking=-"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "effort=- thinking=False"),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            "effort=high thinking=False",
        ),
        ({"thinking_budget": 0}, "effort=- thinking=False"),
    ],
)
async def test_what_is_asked_reaches_the_template(
    client: httpx.AsyncClient, engine: Any, path: str, fields: dict[str, Any], head: str
) -> None:
    assert (await prompt(client, engine, path, **fields)).startswith(head)


@pytest.mark.parametrize(
    ("path", "fields", "head"),
    [
        ("/v1/responses", {"reasoning": {"effort": "high"}}, "effort=high thinking=True"),
        ("/v1/messages", {"thinking": {"type": "disabled"}}, "effort=- thinking=False"),
        ("/v1/messages", {"output_config": {"effort": "low"}}, "effort=low thinking=True"),
        ("/v1/chat/completions", {"reasoning": {"effort": "low"}}, "effort=low thinking=True"),
        ("/v1/chat/completions", {"thinking": {"type": "enabled"}}, "effort=- thinking=True"),
    ],
)
async def test_words_of_one_api(
    client: httpx.AsyncClient, engine: Any, path: str, fields: dict[str, Any], head: str
) -> None:
    assert (await prompt(client, engine, path, **fields)).startswith(head)


@pytest.mark.parametrize("path", PATHS)
async def test_a_budget_that_cannot_be_kept_is_refused_by_name(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.post(path, json=body(path, thinking_token_budget=100))
    assert answer.status_code == 400
    assert "thinking_token_budget" in answer.json()["error"]["message"]


def replies(engine: Any, text: str) -> None:
    tokens = engine.tokenizer.encode(text, add_special_tokens=False)
    engine.reply = lambda request: [*tokens, engine.eos]


def parts(path: str, answer: dict[str, Any]) -> tuple[str, str, list[tuple[str, Any]]]:
    """Content, reasoning and calls of a whole answer."""
    if path == "/v1/chat/completions":
        message = answer["choices"][0]["message"]
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or []]
        return message["content"] or "", message.get("reasoning_content") or "", calls
    if path == "/v1/messages":
        blocks = answer["content"]
        calls = [(block["name"], json.dumps(block["input"])) for block in blocks if block["type"] == "tool_use"]
        text, thought = ("".join(block.get(kind, "") for block in blocks) for kind in ("text", "thinking"))
        return text, thought, calls
    items = answer["output"]
    texts = {
        kind: "".join(part["text"] for item in items if item["type"] == kind for part in item["content"])
        for kind in ("message", "reasoning")
    }
    calls = [(item["name"], item["arguments"]) for item in items if item["type"] == "function_call"]
    return texts["message"], texts["reasoning"], calls


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_thoughts_that_the_client_began_go_on(client: httpx.AsyncClient, engine: Any, path: str) -> None:
    replies(engine, "the sum is 4.</think>\n\nFour.")
    begun = {"role": "assistant", "content": "<think>\nOkay, so"}
    more = {} if path == "/v1/messages" else {"continue_final_message": True}
    answer = (await client.post(path, json=body(path, USER, begun, **more))).json()
    assert parts(path, answer) == ("Four.", "the sum is 4.", [])


@pytest.mark.parametrize("mark", ["prefix", "partial"])
async def test_a_message_that_is_marked_as_begun_goes_on(client: httpx.AsyncClient, engine: Any, mark: str) -> None:
    path = "/v1/chat/completions"
    replies(engine, "Four.")
    begun = {"role": "assistant", "content": "<think>\nOkay.</think>\n\nSo: ", mark: True}
    answer = (await client.post(path, json=body(path, USER, begun))).json()
    assert parts(path, answer) == ("Four.", "", [])
    assert engine.tokenizer.decode(engine.requests[-1].prompt).endswith("So: ")


@pytest.mark.parametrize("path", PATHS)
async def test_a_user_who_speaks_of_tags_begins_no_thoughts(client: httpx.AsyncClient, engine: Any, path: str) -> None:
    replies(engine, "A tag.")
    assert parts(path, (await client.post(path, json=body(path))).json()) == ("A tag.", "", [])


async def test_reasoning_is_left_out_or_left_within(client: httpx.AsyncClient, engine: Any) -> None:
    path = "/v1/chat/completions"
    replies(engine, "<think>Hm.</think>Four.")
    for fields, told in (
        ({}, ("Four.", "Hm.", [])),
        ({"include_reasoning": False}, ("Four.", "", [])),
        ({"reasoning": {"exclude": True}}, ("Four.", "", [])),
        ({"separate_reasoning": False}, ("<think>Hm.</think>Four.", "", [])),
    ):
        assert parts(path, (await client.post(path, json=body(path, **fields))).json()) == told


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"Bonn\\", \\"days\\": \\"2\\"}"}\n</tool_call>',
        "<tool_call>{'name': 'weather', 'arguments': {'city': 'Bonn', 'days': '2'",
        '{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}',
    ],
)
async def test_arguments_are_an_object_with_the_types_of_the_tool(
    client: httpx.AsyncClient, engine: Any, path: str, text: str
) -> None:
    replies(engine, f"<think>Hm.</think>{text}")
    answer = (await client.post(path, json=body(path, tools=True))).json()
    content, reasoning, [(name, arguments)] = parts(path, answer)
    assert (content, reasoning, name) == ("", "Hm.", "weather")
    assert json.loads(arguments) == {"city": "Bonn", "days": 2}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
async def test_half_a_surrogate_pair_is_no_failure(
    client: httpx.AsyncClient, engine: Any, path: str, stream: bool
) -> None:
    replies(engine, '<tool_call>{"id": "\\ud800", "name": "weather", "arguments": {"city": "\\udfff"}}</tool_call>')
    answer = await client.post(path, json=body(path, tools=True, stream=stream))
    assert answer.status_code == 200
    assert '"error":{' not in answer.text
    assert "weather" in answer.text
