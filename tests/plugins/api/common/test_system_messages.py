from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from maxserve.plugins.api.common.chat_renderer import chat_renderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.system_messages import SystemMessages
from maxserve.testing.scripted import context, engine, host, recorder, tokenizer  # noqa: F401 (fixtures)

ALL = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
FIRST = "{% if messages[0].role == 'system' %}{{ messages[0].content }};{% endif %}"
FIRST += "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}"
LAST = "{% for m in messages if m.role == 'system' %}{% if loop.last %}{{ m.content }}{% endif %}{% endfor %}"
LAST += "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
REFUSED = "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}{% endif %}"
REFUSED += "{{ m.role }}:{{ m.content }};{% endfor %}"
NONE = "{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }};{% endfor %}"


def message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


BEGUN = [message("system", "a"), message("developer", "b"), message("user", "c"), message("system", "d")]
MIDDLE = [message("user", "c"), message("assistant", "x"), message("system", "d"), message("user", "e")]
TOOLS = [message("user", "c"), message("assistant", "x"), message("tool", "r"), message("system", "d")]


def shown(context: Any, template: str, messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:  # noqa: F811
    served = dataclasses.replace(context, template=JinjaTemplate({"default": template}))
    shown = SystemMessages(chat_renderer(served)).shown(messages, tools=False)
    return [(each["role"], each["content"]) for each in shown]


def test_what_the_template_shows_stays(context: Any) -> None:  # noqa: F811
    for messages in (BEGUN, MIDDLE, TOOLS):
        roles = [each["role"].replace("developer", "system") for each in messages]
        assert shown(context, ALL, messages) == list(zip(roles, (each["content"] for each in messages), strict=True))


@pytest.mark.parametrize("template", [FIRST, LAST, REFUSED])
def test_what_it_does_not_show_is_joined(context: Any, template: str) -> None:  # noqa: F811
    assert shown(context, template, BEGUN) == [("system", "a\n\nb"), ("user", "c\n\nd")]
    assert shown(context, template, MIDDLE) == [("user", "c"), ("assistant", "x"), ("user", "d\n\ne")]
    assert shown(context, template, TOOLS) == [("user", "c"), ("assistant", "x"), ("tool", "r"), ("user", "d")]


def test_where_no_system_message_is_shown_all_are_the_users(context: Any) -> None:  # noqa: F811
    assert shown(context, NONE, BEGUN) == [("user", "a\n\nb\n\nc\n\nd")]
    assert shown(context, NONE, [message("user", "c"), message("user", "e")]) == [("user", "c"), ("user", "e")]


def test_images_stay_parts(context: Any) -> None:  # noqa: F811
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    parts = [{"type": "text", "text": "c"}, image]
    assert shown(context, FIRST, [message("user", parts), message("system", "d")]) == [
        ("user", [*parts, {"type": "text", "text": "d"}])
    ]


def test_without_a_template_nothing_changes(context: Any) -> None:  # noqa: F811
    served = dataclasses.replace(context, template=None)
    assert SystemMessages(chat_renderer(served)).shown(BEGUN, tools=False) == BEGUN
