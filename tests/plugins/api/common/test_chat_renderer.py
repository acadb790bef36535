from __future__ import annotations

from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from maxserve.core.interfaces.chat_template import ChatTemplateContext
from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.routes import ServerContext
from maxserve.plugins.api.common import maxserve_chat_template, template_sandbox
from maxserve.plugins.api.common.chat_renderer import ChatRenderer, chat_renderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.testing.scripted import context, engine, host, recorder, tokenizer  # noqa: F401 (fixtures)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "{% if message.role == 'user' %}{{ '[INST] ' + message.content | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message.content | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
WITH_TOOLS = """\
{%- set ns = namespace(count=0) %}
{%- if tools %}
    {{- "# Tools\\n" }}
    {%- for tool in tools %}
        {{- tool | tojson }}
        {{- tool | tojson(indent=2, sort_keys=true) }}
        {%- set ns.count = ns.count + 1 %}
    {%- endfor %}
    {{- ns.count }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "system" %}{% continue %}{% endif %}
    {%- if message.content is string %}
        {{- message.role + ": " + message.content }}
    {%- else %}
        {%- for part in message.content %}
            {%- if part.type == "text" %}{{ part.text }}{% else %}<{{ part.type }}>{% endif %}
        {%- endfor %}
    {%- endif %}
    {%- if message.reasoning_content %}(thinks {{ message.reasoning_content }}){% endif %}
    {%- if message.tool_calls is defined %}{{ message.tool_calls | tojson }}{% endif %}
    {%- if loop.index > 5 %}{% break %}{% endif %}
{%- endfor %}
{%- if documents is defined and documents %}{{ documents | length }} documents{% endif %}
{%- if enable_thinking is defined and enable_thinking is false %}no thinking{% endif %}
"""
TRAINED = "{% for m in messages %}{% generation %}\n  {{ m.content }}\n{% endgeneration %}|{% endfor %}\n"
DATED = "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"

CHAT = [
    {"role": "user", "content": "  What is <b>this</b> & 'that'? 日本  "},
    {"role": "assistant", "content": "An answer."},
    {"role": "user", "content": "More?"},
]
TOOLS = [{"type": "function", "function": {"name": "größe", "parameters": {"z": 1, "a": ["<x>", None, True]}}}]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.fixture(scope="module")
def reference(tokenizer_folders: dict[str, Path]) -> Any:
    return AutoTokenizer.from_pretrained(tokenizer_folders["byte_level"])


def template(source: str) -> ChatRenderer:
    return ChatRenderer(JinjaTemplate({"default": source}), SPECIAL)


@pytest.mark.parametrize("source", [CHATML, LLAMA_2, WITH_TOOLS, TRAINED, DATED])
@pytest.mark.parametrize(
    "options", [{}, {"tools": TOOLS}, {"add_generation_prompt": False}, {"enable_thinking": False}]
)
def test_renders_what_transformers_renders(reference: Any, source: str, options: dict[str, Any]) -> None:
    expected = reference.apply_chat_template(
        CHAT, chat_template=source, tokenize=False, **{"add_generation_prompt": True, **options}
    )
    assert template(source).render(CHAT, **options) == expected


def test_parts_tool_calls_and_documents_render_alike(reference: Any) -> None:
    chat = [
        {"role": "system", "content": "left out"},
        {"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image"}]},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"x": "é"}}]},
        {"role": "assistant", "content": "so", "reasoning_content": "hm"},
    ]
    documents = [{"title": "t", "text": "x"}]
    expected = reference.apply_chat_template(chat, chat_template=WITH_TOOLS, tokenize=False, documents=documents)
    rendered = template(WITH_TOOLS).render(chat, add_generation_prompt=False, documents=documents)
    assert rendered == expected
    assert "<image>" in rendered


def test_null_fields_count_as_absent_and_reasoning_has_one_name() -> None:
    source = "{{ messages[0].tool_calls is defined }} {{ messages[0].reasoning_content }} {{ messages[0].thinking }}"
    chat = [{"role": "assistant", "content": "x", "tool_calls": None, "reasoning": "hm"}]
    assert template(source).render(chat) == "False hm hm"


@pytest.mark.parametrize("source", [CHATML, LLAMA_2, WITH_TOOLS])
@pytest.mark.parametrize("last", ["The answer is", "The answer is  ", "\nThe answer"])
def test_continues_the_last_message_as_transformers_does(reference: Any, source: str, last: str) -> None:
    chat = [CHAT[0], {"role": "assistant", "content": last}]
    expected = reference.apply_chat_template(chat, chat_template=source, tokenize=False, continue_final_message=True)
    rendered = template(source).render(chat, continue_final_message=True)
    assert rendered == expected
    assert rendered.endswith((last.strip(), last))


def test_continues_the_last_text_part(reference: Any) -> None:
    chat = [{"role": "assistant", "content": [{"type": "text", "text": "So "}, {"type": "image"}]}]
    expected = reference.apply_chat_template(
        chat, chat_template=WITH_TOOLS, tokenize=False, continue_final_message=True
    )
    assert template(WITH_TOOLS).render(chat, continue_final_message=True) == expected
    assert chat[0]["content"][0] == {"type": "text", "text": "So "}


def test_refuses_to_continue_what_the_template_drops() -> None:
    with pytest.raises(RequestError, match="leaves the last message out"):
        template("{{ messages[0].content }}").render(CHAT, continue_final_message=True)
    with pytest.raises(RequestError, match="needs a last message with text"):
        template(CHATML).render([{"role": "assistant"}], continue_final_message=True)


def test_templates_that_expect_strings_get_joined_text_parts() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    rendered = template(CHATML).render([{"role": "user", "content": parts}])
    assert "\none\ntwo<|im_end|>" in rendered
    with pytest.raises(RequestError, match="takes text only; a part of type 'image_url' was given"):
        template(CHATML).render([{"role": "user", "content": [{"type": "image_url"}]}])


def test_templates_that_expect_strings_get_what_stands_for_an_image() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    rendered = template(CHATML).render(chat, image_text="<picture>")
    assert "user\n<picture>\nWhat is it?<|im_end|>" in rendered
    with pytest.raises(RequestError, match="takes text only; a part of type 'image' was given"):
        template(CHATML).render(chat)


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}{% for p in m['content'] %}{{ p.text }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% set c = m.content %}{% for p in c %}{{ p.text }}{% endfor %}{% endfor %}",
        "{% macro show(content) %}{% for p in content | list %}{{ p.text }}{% endfor %}{% endmacro %}"
        "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
    ],
)
def test_templates_that_walk_through_parts_get_parts(source: str) -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert template(source).render([{"role": "user", "content": parts}]) == "onetwo"


def test_the_date_is_todays() -> None:
    assert template(DATED).render(CHAT).startswith(datetime.now().strftime("%d %b"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (LLAMA_2.replace("'user') !=", "'user') =="), "roles must alternate user/assistant"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ messages[9].content.x }}", "has no element 9|no attribute"),
        ("{{ 1 // 0 }}", "division"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_a_template_refuses_is_a_400_with_its_message(source: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        template(source).render(CHAT)
    assert caught.value.status == 400
    assert caught.value.param == "messages"


def test_only_json_reaches_a_template() -> None:
    class Level(str, Enum):  # noqa: UP042 (as older code does)
        HIGH = "high"

    rendered = template("{{ level }} {{ pair }}").render(CHAT, level=Level.HIGH, pair=(1, 2.5))
    assert rendered == "high [1, 2.5]"
    with pytest.raises(RequestError, match="JSON values only, not PosixPath"):
        template(CHATML).render([{"role": "user", "content": Path()}])


def test_what_a_template_takes_from_its_messages_is_there_for_the_next_try() -> None:
    made = template("{% set _ = messages.pop() %}{{ messages | length }}{{ raise_exception('no') if not tools }}")
    tools = [{"type": "function", "function": {"name": "f"}}]
    for _ in range(2):
        assert made.render([{"role": "user", "content": "a"}], tools=tools) == "0"


def test_a_template_without_end_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "MOST_STEPS", 200_000)
    monkeypatch.setattr(template_sandbox, "PROBE_STEPS", 20_000)
    loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    made = template(loops)
    with pytest.raises(RequestError, match="refused the conversation: it takes too many steps"):
        made.render(CHAT)


def test_messages_must_be_objects() -> None:
    with pytest.raises(RequestError, match="must not be empty"):
        template(CHATML).render([])
    with pytest.raises(RequestError, match=r"messages\[0\] must be an object"):
        template(CHATML).render(["hi"])  # type: ignore[list-item]


def test_variables_override_special_tokens() -> None:
    assert template("{{ bos_token }}").render(CHAT, bos_token="!") == "!"


def test_a_model_without_template_refuses_chats(tmp_path: Path) -> None:
    assert maxserve_chat_template(ChatTemplateContext(path=str(tmp_path))) is None
    templates = ChatRenderer(None, {})
    assert templates.template.source() is None
    with pytest.raises(RequestError, match="no chat template: use /v1/completions"):
        templates.render(CHAT)


def test_one_renderer_for_all_routes_of_an_application(context: ServerContext) -> None:  # noqa: F811
    renderer = context.once(chat_renderer)
    text = renderer.render([{"role": "user", "content": "Hi"}])
    assert "Hi" in context.tokenizer.decode(context.tokenizer.encode(text, add_special_tokens=False))
    assert context.once(chat_renderer) is renderer
