"""The token by which a template ends a message."""

from __future__ import annotations

import pytest

from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.api.common.template_ends import template_ends

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ADDED = ("<|im_start|>", "<|im_end|>", "<|end|>", "<|return|>", "<|user|>", "<|assistant|>", "</s>", "</tool>")

# Written for these tests: how families end a message, each in a few lines.
TEMPLATES = {
    "an end after each message": (CHATML, ["<|im_end|>"]),
    "a space before the end": ("{% for m in messages %}{{ m.content + ' </s>' }}{% endfor %}", ["</s>"]),
    "two ends": ("{% for m in messages %}{{ m.content }}<|end|>\n{% endfor %}</s>", ["<|end|>"]),
    "the next role is the end": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}",
        ["<|user|>"],
    ),
    "a last message ends otherwise": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking %}{{ m.thinking }}<|end|>{% endif %}"
        "{{ m.content }}{{ '<|return|>' if loop.last else '<|end|>' }}{% else %}{{ m.content }}<|end|>{% endif %}"
        "{% endfor %}",
        ["<|return|>"],
    ),
    "the end parts thoughts from text": (
        "{% for m in messages %}{% if m.thinking %}{{ m.thinking }}<|end|>{% endif %}{{ m.content }}<|end|>"
        "{% endfor %}",
        [],
    ),
    "the end parts text from calls": (
        "{% for m in messages %}{{ m.content }}</tool>{% for c in m.tool_calls or [] %}"
        "{{ c.function.arguments | tojson }}</tool>{% endfor %}{% endfor %}",
        [],
    ),
    "the eos of the tokenizer": ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", ["</s>"]),
    "plain text": ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", []),
    "parts only": (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>{% endfor %}",
        ["<|im_end|>"],
    ),
    "arguments that are text": (
        "{% for m in messages %}{{ m.content }}<|end|>{% for c in m.tool_calls or [] %}"
        "{{ '<|return|>' + c.function.arguments }}<|end|>{% endfor %}{% endfor %}",
        [],
    ),
    "text beside a call only in thoughts": (
        "{% for m in messages %}{% if m.tool_calls %}{{ raise_exception('both') if m.content and m.thinking }}"
        "{{ m.thinking }}<|end|>{{ m.tool_calls[0].function.arguments }}{% else %}{{ m.content }}<|end|>{% endif %}"
        "{% endfor %}",
        [],
    ),
    "an answer that is left out": ("<s>{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", []),
    "a template that takes nothing": ("{{ raise_exception('no') }}", []),
    "a template that needs tools": (
        "{% if not tools %}{{ raise_exception('no') }}{% endif %}" + CHATML,
        ["<|im_end|>"],
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_how_a_template_ends_a_message(name: str) -> None:
    source, expected = TEMPLATES[name]
    assert template_ends(JinjaTemplate({"default": source}), {"eos_token": "</s>"}, ADDED) == expected
