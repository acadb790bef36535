"""Conversations that a template refuses as they came."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate

LIKE_GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "<{{ 'model' if m.role == 'assistant' else m.role }}>{{ m.content | trim }}{% endfor %}"
)
ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
ONE_CALL = (
    "{% for m in messages %}{% if 'tool_calls' in m %}{% if m.tool_calls | length != 1 %}"
    "{{ raise_exception('one call at a time') }}{% endif %}<call>{{ m.tool_calls[0].function.name }}"
    "{{ m.tool_calls[0].function.arguments | tojson }}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
)
USER = {"role": "user", "content": "a"}


def render(source: str, *messages: dict[str, Any], **options: Any) -> str:
    return ChatRenderer(JinjaTemplate({"default": source}), {}).render(messages, **options)


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def call(id: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([said("system", "S"), USER], "<user>S\n\na"),
        ([said("developer", "S"), USER], "<user>S\n\na"),
        ([USER, said("user", "b")], "<user>a\n\nb"),
        ([said("assistant", "A"), USER], "<user><model>A<user>a"),
        ([USER, said("assistant", "A"), said("assistant", "B"), USER], "<user>a<model>A\n\nB<user>a"),
        ([USER, said("assistant", "A"), said("system", "S"), USER], "<user>a<model>A<user>S\n\na"),
        ([USER, said("assistant", ""), USER], "<user>a<model><user>a"),
        ([USER, said("critic", "C"), USER], "<user>a<critic>C<user>a"),
        ([USER, said("assistant", "A"), said("critic", "C"), USER], "<user>a<model>A<user>C\n\na"),
        (
            [USER, {"role": "assistant", "tool_calls": [call("1"), call("2")]}, said("tool", "x"), said("tool", "y")],
            '<user>a<model>[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]'
            "<user>Result of the call: x\n\nResult of the call: y",
        ),
    ],
)
def test_roles_that_must_alternate(messages: list[dict[str, Any]], text: str) -> None:
    assert render(LIKE_GEMMA, *messages) == text


def test_what_is_taken_is_not_changed() -> None:
    turns = [said("system", "S"), said("system", "T"), USER, USER, said("critic", "C"), said("assistant", "")]
    source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    assert render(source, *turns) == "<system>S<system>T<user>a<user>a<critic>C<assistant>"


def test_later_system_messages_are_the_users() -> None:
    assert render(ONE_SYSTEM, said("system", "S"), USER, said("system", "T")) == "<system>S<user>a<user>T"
    assert render(ONE_SYSTEM, said("system", "S"), said("system", "T"), USER) == "<system>S\n\nT<user>a"


def test_calls_of_which_there_may_be_one() -> None:
    one = {"role": "assistant", "content": "", "tool_calls": [call("1")]}
    assert render(ONE_CALL, USER, one) == "<user>a<call>f{}"
    assert render(ONE_CALL, USER, one | {"tool_calls": []}) == "<user>a<assistant>"
    two = one | {"tool_calls": [call("1"), call("2")]}
    assert render(ONE_CALL, USER, two).startswith('<user>a<assistant>[{"name": "f"')


def test_text_and_thoughts_beside_a_call_where_one_of_them_may_be() -> None:
    source = (
        "{% for m in messages %}"
        "{% if m.tool_calls and m.content and m.thinking %}{{ raise_exception('both') }}{% endif %}"
        "{{ '<' + m.role + '>' + (m.content or m.thinking or '') }}"
        "{% for c in m.tool_calls or [] %}{{ c.function.name + c.function.arguments | tojson }}{% endfor %}{% endfor %}"
    )
    message = {"role": "assistant", "content": "S", "reasoning_content": "T", "tool_calls": [call("1")]}
    result = {"role": "tool", "tool_call_id": "1", "content": "R"}
    assert render(source, USER, message, result) == "<user>a<assistant>T\nSf{}<tool>R"


def test_the_older_fields_for_calls() -> None:
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{{ c.function.arguments | tojson }}{{ c.id }}{% endfor %}{{ m.tool_call_id }};{% endfor %}"
    )
    older = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    result = {"role": "function", "name": "f", "content": "ok"}
    assert render(source, USER, older, result) == 'user:a;assistant:f{"a": 1}call_f;tool:okcall_f;'


def test_absent_contents_of_templates_that_add_them() -> None:
    source = "{% for m in messages %}{{ '<' + m.role + '>' + m.content }}{% endfor %}"
    assert (
        render(source, USER, {"role": "assistant", "content": None}, said("user", None)) == "<user>a<assistant><user>"
    )


def test_a_template_for_tools_gets_an_empty_list_of_them() -> None:
    source = "{% for t in tools %}{{ t.function.name }}{% endfor %}{{ messages[0].content }}"
    assert render(source, USER) == "a"


def test_strings_for_templates_that_read_parts_only() -> None:
    source = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert render(source, USER, said("assistant", [{"type": "text", "text": "b"}])) == "ab"


def test_what_the_template_refuses_anyway_is_told_in_its_words() -> None:
    with pytest.raises(RequestError, match="never") as caught:
        render("{{ raise_exception('never') }}", said("system", "S"), USER, USER)
    assert caught.value.param == "messages"


NEEDS_USER = (
    "{% if messages | selectattr('role', 'equalto', 'user') | list | length == 0 %}{{ raise_exception('no user') }}"
    "{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)


def test_conversations_without_a_user() -> None:
    assert render(NEEDS_USER, said("system", "S")) == "<user>S"
    assert render(NEEDS_USER, said("system", "S"), said("assistant", "A")) == "<user>S<assistant>A"
    assert render(NEEDS_USER, said("tool", "r")) == "<user>Result of the call: r"


def test_results_without_their_call() -> None:
    source = (
        "{% set ns = namespace(name=none) %}{% for m in messages %}{% if m.tool_calls %}"
        "{% set ns.name = m.tool_calls[0].function.name %}{{ m.tool_calls[0].function.arguments | tojson }}"
        "{% elif m.role == 'tool' %}{% if ns.name is none %}{{ raise_exception('no call before') }}{% endif %}"
        "<{{ ns.name }}>{{ m.content }}{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )
    assert render(source, said("tool", "rain"), USER) == "<user>Result of the call: rain\n\na"
