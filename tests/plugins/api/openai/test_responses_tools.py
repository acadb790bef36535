"""Tools of the Responses API, there and back: functions, namespaces, and kinds whose calls are items of their own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.parsers import CallDelta
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.openai.responses_body import ResponseBody
from maxserve.plugins.api.openai.responses_events import ResponseEvents
from maxserve.plugins.api.openai.responses_items import NewItems, ResponseObject, items_of
from maxserve.plugins.api.openai.responses_messages import messages_of, sealed, unsealed
from maxserve.plugins.api.openai.responses_tools import ResponseTools, declared_tools

EMPTY = {"type": "object", "properties": {}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Patches files.", "format": GRAMMAR}
AGENTS = {
    "type": "namespace",
    "name": "agents",
    "description": "Other agents.",
    "tools": [{"type": "function", "name": "close", "parameters": EMPTY, "strict": False}],
}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": EMPTY}


def tools_of(*tools: Any, choice: Any = None, items: Any = "Hi") -> ResponseTools:
    body = ResponseBody.model_validate({"input": items, "tools": list(tools), "tool_choice": choice})
    return ResponseTools(declared_tools(body.tools, body.input), body.tool_choice)


CALLED: list[tuple[dict[str, Any], str, str, dict[str, Any]]] = [  # tool, name the model says, arguments, item
    (
        {"type": "function", "name": "f", "parameters": EMPTY},
        "f",
        '{"a":1}',
        {"type": "function_call", "name": "f", "arguments": '{"a":1}'},
    ),
    (
        AGENTS,
        "agents__close",
        "{}",
        {"type": "function_call", "name": "close", "namespace": "agents", "arguments": "{}"},
    ),
    (
        PATCH,
        "apply_patch",
        '{"input": "*** Begin\\n+é"}',
        {"type": "custom_tool_call", "name": "apply_patch", "input": "*** Begin\n+é"},
    ),
    (
        PATCH,
        "apply_patch",
        '{"input": "cut o',
        {"type": "custom_tool_call", "name": "apply_patch", "input": '{"input": "cut o'},
    ),
    (
        {"type": "local_shell"},
        "local_shell",
        '{"command": ["ls", "-l"], "timeout_ms": 5}',
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5}},
    ),
    (
        {"type": "shell", "environment": {"type": "local"}},
        "shell",
        '{"commands": ["ls"]}',
        {"type": "shell_call", "action": {"commands": ["ls"]}},
    ),
    (
        {"type": "apply_patch"},
        "apply_patch",
        '{"type": "delete_file", "path": "a"}',
        {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
    ),
    (
        SEARCH,
        "tool_search",
        '{"query": "mail"}',
        {"type": "tool_search_call", "execution": "client", "arguments": {"query": "mail"}},
    ),
]


def events_of(tools: ResponseTools, context: Any, *deltas: TextDelta) -> list[Any]:
    response = ResponseObject(ResponseBody.model_validate({"input": "Hi"}), context.model, context.model.name, "r", ())
    encoder = ResponseEvents(response, NewItems("r", tools), Meter((), "/v1/responses"))
    text = encoder.opening() + b"".join(encoder.delta(0, delta) for delta in deltas) + encoder.closing(0, deltas[-1])
    return [json.loads(lines.split("data: ")[1]) for lines in text.decode().split("\n\n")[:-1]]


@pytest.mark.parametrize(("tool", "name", "arguments", "item"), CALLED)
def test_a_call_is_the_item_that_its_tool_wants(
    context: Any, tool: Any, name: str, arguments: str, item: dict[str, Any]
) -> None:
    tools = tools_of(tool)
    assert [function["function"]["name"] for function in tools.functions] == [name]
    deltas = [
        CallDelta(index=0, id="c1", name=name, arguments=arguments[:3]),
        CallDelta(index=0, arguments=arguments[3:]),
    ]
    answer = Answer()
    parts = [TextDelta(calls=(delta,)) for delta in deltas]
    parts.append(TextDelta(finish="stop", called=True))
    for delta in parts:
        answer.add(delta)
    [whole] = [each.shown("completed") for each in items_of(answer, NewItems("r", tools))]
    assert item.items() <= whole.items()
    assert whole["call_id"] == "c1"
    events = events_of(tools, context, *parts)
    assert events[-1]["response"]["output"] == [whole]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == [whole]


def test_a_freeform_call_is_streamed_as_its_input(context: Any) -> None:
    call = CallDelta(index=0, id="c1", name="apply_patch", arguments='{"input": "*** a"}')
    part = TextDelta(finish="stop", calls=(call,), called=True)
    events = events_of(tools_of(PATCH), context, part)
    told = [(event["type"], event.get("delta", event.get("input"))) for event in events if "custom" in event["type"]]
    assert told == [
        ("response.custom_tool_call_input.delta", "*** a"),
        ("response.custom_tool_call_input.done", "*** a"),
    ]
    assert not any("function_call" in event["type"] for event in events)


def test_the_model_is_told_of_a_grammar() -> None:
    [function] = tools_of(PATCH).functions
    assert function["function"]["description"].startswith("Patches files.")
    assert GRAMMAR["definition"] in function["function"]["description"]
    assert function["function"]["parameters"]["required"] == ["input"]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        (None, None),
        ("required", "required"),
        ({"type": "custom", "name": "apply_patch"}, "apply_patch"),
        ({"type": "function", "name": "close", "namespace": "agents"}, "agents__close"),
        ({"type": "tool_search"}, "tool_search"),
    ],
)
def test_choices(choice: Any, wanted: Any) -> None:
    found = tools_of(PATCH, AGENTS, SEARCH, choice=choice).choice
    named = {"type": "function", "function": {"name": wanted}}
    assert found == (named if isinstance(choice, dict) else wanted)


def test_allowed_tools() -> None:
    allowed = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
    choice = {"type": "allowed_tools", "mode": "required", "tools": allowed}
    named = [{"type": "function", "function": {"name": "apply_patch"}}]
    found = tools_of(PATCH, {"type": "web_search"}, choice=choice).choice
    assert found == {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": named}}


@pytest.mark.parametrize("kind", ["tool_search_output", "additional_tools"])
def test_tools_that_a_search_found_can_be_called(kind: str) -> None:
    found = {"type": "function", "name": "mail", "parameters": EMPTY, "defer_loading": True}
    item = {"type": kind, "call_id": "c", "tools": [AGENTS, found, found]}
    tools = tools_of(SEARCH, AGENTS, items=[item, item])
    assert [each["function"]["name"] for each in tools.functions] == ["tool_search", "agents__close", "mail"]


def test_a_tool_that_cannot_be_read_is_named() -> None:
    with pytest.raises(RequestError) as caught:
        tools_of(items=[{"type": "additional_tools", "tools": [{"name": "f"}]}])
    assert caught.value.param == "input[0].tools[0]"


def test_what_codex_sends_back_becomes_messages() -> None:
    items = [
        {"type": "message", "id": "msg_1", "role": "user", "content": [{"type": "input_text", "text": "Go"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": sealed("Thought.")},
        {
            "type": "message",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "A"}],
        },
        {"type": "custom_tool_call", "status": "completed", "call_id": "c1", "name": "apply_patch", "input": "*** x"},
        {
            "type": "local_shell_call",
            "call_id": "c2",
            "status": "completed",
            "action": {"type": "exec", "command": ["ls"]},
        },
        {"type": "function_call", "call_id": "c3", "name": "close", "namespace": "agents", "arguments": "{}"},
        {"type": "tool_search_call", "call_id": "c4", "execution": "client", "arguments": {"query": "q"}},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "Done"},
        {"type": "local_shell_call_output", "id": "c2", "output": '{"stdout": ""}'},
        {"type": "function_call_output", "call_id": "c3", "output": [{"type": "input_text", "text": "ok"}]},
        {"type": "tool_search_output", "call_id": "c4", "tools": [{"type": "function", "name": "mail"}]},
        {"type": "reasoning", "id": "rs2", "summary": [], "content": None, "encrypted_content": "gAAAA"},
        {"type": "shell_call_output", "call_id": "c9", "output": [{"stdout": "x", "stderr": ""}]},
    ]
    user, assistant, *results = messages_of(ResponseBody.model_validate({"input": items}))
    assert user == {"role": "user", "content": "Go"}
    assert (assistant["reasoning_content"], assistant["content"]) == ("Thought.", "A")
    assert [
        (call["id"], call["function"]["name"], call["function"]["arguments"]) for call in assistant["tool_calls"]
    ] == [
        ("c1", "apply_patch", '{"input": "*** x"}'),
        ("c2", "local_shell", '{"command": ["ls"]}'),
        ("c3", "agents__close", "{}"),
        ("c4", "tool_search", '{"query": "q"}'),
    ]
    assert [(result["tool_call_id"], result["content"]) for result in results] == [
        ("c1", "Done"),
        ("c2", '{"stdout": ""}'),
        ("c3", "ok"),
        ("c4", "Found: mail"),
        ("c9", '[{"stdout": "x", "stderr": ""}]'),
    ]


def test_what_ran_at_a_provider_is_a_call_and_its_result() -> None:
    item = {"type": "mcp_call", "id": "m1", "name": "roll", "server_label": "d", "arguments": "{}", "output": "4"}
    assistant, result = messages_of(ResponseBody.model_validate({"input": [item]}))
    assert assistant["tool_calls"][0]["function"] == {"name": "roll", "arguments": "{}"}
    assert result == {"role": "tool", "tool_call_id": "m1", "content": "4"}


@pytest.mark.parametrize("text", ["", "Ünïcode 🙂\n"])
def test_reasoning_goes_there_and_back(text: str) -> None:
    assert unsealed(sealed(text)) == text


@pytest.mark.parametrize("text", [None, "", "gAAAAB", "maxserve.reasoning.v1:%%%", "maxserve.reasoning.v1:/w=="])
def test_reasoning_of_others_is_left_out(text: str | None) -> None:
    assert unsealed(text) == ""
