"""Conversations with tools come out as transformers renders them, when calls carry arguments as text."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from tests.plugins.tokenizers.conftest import tokenizer_folders  # noqa: F401 (fixture)

LIKE_HERMES = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}<|im_start|>user
<tool_response>
{{ m.content }}
</tool_response><|im_end|>
{% else %}<|im_start|>{{ m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}{{ m.content }}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LIKE_LLAMA = """\
{%- if tools %}<|start_header_id|>system<|end_header_id|>{% for tool in tools %}
{{ tool | tojson(indent=4) }}{% endfor %}<|eot_id|>{% endif %}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception("one call at a time") }}{% endif %}
{%- set call = m.tool_calls[0].function %}<|start_header_id|>assistant<|end_header_id|>
{"name": "{{ call.name }}", "parameters": {% if call.arguments is mapping %}{{ call.arguments | tojson }}{% endif %}}
{%- elif m.role == "tool" %}<|start_header_id|>ipython<|end_header_id|>{{ m.content | tojson }}
{%- else %}<|start_header_id|>{{ m.role }}<|end_header_id|>{{ m.content }}{% endif %}<|eot_id|>{% endfor %}"""
LIKE_MISTRAL = """\
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}
{%- if m.role == "tool" %}[TOOL_RESULTS]{"content": {{ m.content }}, "call_id": "{{ m.tool_call_id }}"}[/TOOL_RESULTS]
{%- elif m.tool_calls %}[TOOL_CALLS][{% for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception("ids have nine characters") }}{% endif %}
{{- {"name": call.function.name, "arguments": call.function.arguments, "id": call.id} | tojson }}{% endfor %}]
{%- else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}"""
TOOLS = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"ö": {}}}}}
]
ARGUMENTS = {"city": 'São "Paulo" 日', "days": [1, 2.5, None, {"x": True}]}
CALL = {"id": "abc123xyz", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "reasoning_content": "Look it up.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abc123xyz", "content": '{"rain": true}'},
]


@pytest.mark.parametrize("source", [LIKE_HERMES, LIKE_LLAMA, LIKE_MISTRAL])
def test_calls_with_arguments_as_text(source: str, tokenizer_folders: dict[str, Path]) -> None:  # noqa: F811
    reference: Any = AutoTokenizer.from_pretrained(tokenizer_folders["byte_level"])
    expected = reference.apply_chat_template(
        CHAT, tools=TOOLS, chat_template=source, add_generation_prompt=True, tokenize=False
    )
    sent = copy.deepcopy(CHAT)
    sent[1]["tool_calls"][0]["function"]["arguments"] = json.dumps(ARGUMENTS)
    special = {name: str(token) for name, token in reference.special_tokens_map.items()}
    assert ChatRenderer(JinjaTemplate({"default": source}), special).render(sent, tools=TOOLS) == expected
    assert json.dumps(ARGUMENTS["city"], ensure_ascii=False) in expected
