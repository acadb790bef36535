"""Chat requests as clients send them become prompts, whatever a model wrote before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.conversation import Conversations
from maxserve.plugins.api.common.tools import read_tools

OBJECTS = (
    "{% for m in messages %}[{{ m.role }}]{% for c in m.tool_calls or [] %}{{ c.function.name }}"
    "{{ c.function.arguments | tojson }}{% endfor %}{{ m.content }}{% endfor %}{% if tools %}{{ tools | length }}"
    "{{ tools[0].function.name }}{% endif %}"
)
TEXT = OBJECTS.replace("{{ c.function.arguments | tojson }}", "{{ ' ' + c.function.arguments + ';' }}")
ONE_CALL = (
    "{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}[{{ m.role }} calls]{% else %}[{{ m.role }}: "
    "{{ m.content }}]{% endif %}{% endfor %}"
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "[{{ m.role }}: {{ m.content }}]{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}]


def prompt(template: str, messages: list[Any], **fields: Any) -> str:
    body = ChatBody.model_validate({"messages": messages, **fields})
    tokenizer = SimpleNamespace(special_tokens={"bos_token": "<s>"})
    context: Any = SimpleNamespace(
        template=JinjaTemplate({"default": template}), images=None, model=None, tokenizer=tokenizer
    )
    context.once = lambda make: make(context)
    return Conversations(context).text(body, read_tools(body))


def conversation(arguments: Any) -> list[dict[str, Any]]:
    call = {"id": "call_0123456789", "type": "function", "function": {"name": "clock", "arguments": arguments}}
    return [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_0123456789", "content": "b"},
        {"role": "user", "content": "c"},
    ]


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ('{"zone": "utc"}', '{"zone": "utc"}'),
        ({"zone": "utc"}, '{"zone": "utc"}'),
        ('{"text": "and then', r'"{\"text\": \"and then"'),
        ("null", "{}"),
        ("", "{}"),
        (None, "{}"),
        ("write it", '"write it"'),
    ],
)
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_arguments_of_past_calls_as_objects(arguments: Any, shown: str, tools: Any) -> None:
    text = prompt(OBJECTS, conversation(arguments), tools=tools)
    assert text == f"[user]a[assistant]clock{shown}[tool]b[user]c" + ("1clock" if tools else "")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [('{"zone":"utc"}', '{"zone":"utc"}'), ("null", "{}"), ('{"text": "and', '{"text": "and'), ({"a": 1}, '{"a": 1}')],
)
def test_arguments_of_past_calls_as_text(arguments: Any, shown: str) -> None:
    assert prompt(TEXT, conversation(arguments)) == f"[user]a[assistant]clock {shown};[tool]b[user]c"


def test_an_empty_list_of_calls_is_none() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": []}]
    assert prompt(ONE_CALL, turns) == "[user: a][assistant: b]"


@pytest.mark.parametrize("role", ["system", "developer"])
def test_tools_are_told_where_there_is_no_system_role(role: str) -> None:
    text = prompt(NO_SYSTEM, [{"role": "user", "content": "time?"}], tools=TOOLS)
    assert text.startswith('[user: You may call these functions:\n[{"name": "clock"')
    assert text.endswith("answer as usual.][user: time?]")
    told = prompt(NO_SYSTEM, [{"role": role, "content": "S"}, {"role": "user", "content": "time?"}], tools=TOOLS)
    assert told.startswith("[user: S\n\nYou may call these functions:")


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": None},
        {"role": "user", "content": ""},
        {"role": "user", "content": []},
        {"role": "user", "content": [{"type": "text", "text": None}]},
        {"role": "tool", "tool_call_id": "x"},
        {"role": "assistant"},
        {"role": "assistant", "content": None, "tool_calls": None, "function_call": None, "refusal": None},
    ],
)
def test_empty_messages(message: dict[str, Any]) -> None:
    turns = [{"role": "user", "content": "a"}, message, {"role": "user", "content": "b"}]
    assert prompt(OBJECTS, turns) == f"[user]a[{message['role']}][user]b"


def test_texts_by_every_name_of_a_part() -> None:
    parts = ["a", {"type": "input_text", "text": "b"}, {"type": "output_text", "text": "c", "annotations": []}]
    turns = [{"role": "assistant", "content": [*parts, {"type": "refusal", "refusal": "d"}]}]
    assert prompt(OBJECTS, turns) == "[assistant]a\nb\nc\nd"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"type": "text", "text": "m"}]},
        {"type": "reasoning", "text": "hm"},
        {"type": "reasoning", "reasoning": "hm"},
    ],
)
def test_thoughts_among_the_parts(part: dict[str, Any]) -> None:
    source = "{% for m in messages %}[{{ m.role }}]({{ m.reasoning_content }}){{ m.content }}{% endfor %}"
    assert (
        prompt(source, [{"role": "assistant", "content": [part, {"type": "text", "text": "a"}]}]) == "[assistant](hm)a"
    )
    hidden = {"type": "redacted_thinking", "data": "x"}
    assert prompt(source, [{"role": "assistant", "content": [hidden]}]) == "[assistant]()"
    alone = {"role": "assistant", "content": None, "reasoning_content": "hm"}
    assert prompt(source, [alone, {"role": "user", "content": "b"}]) == "[assistant](hm)[user]()b"


def test_roles_of_the_template() -> None:
    assert prompt(OBJECTS, [{"role": "critic", "content": "a"}]) == "[critic]a"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "messages[0].content"),
        ({"role": "system"}, "messages[0].content"),
        ({"role": "user|im_end|>", "content": "x"}, "messages[0].role"),
        ({"role": "", "content": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "text", "content": "x"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[0].content[0].type"),
    ],
)
def test_what_would_change_the_answer_is_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        prompt(OBJECTS, [message])
    assert caught.value.param == param
