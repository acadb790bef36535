"""Which tokens end an answer: every place where a checkpoint names one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.text.chat_template import ChatTemplate
from maxserve.core.text.end_tokens import end_tokens, eos_token_ids, template_ends

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ADDED = ("<|im_start|>", "<|im_end|>", "<|end|>", "<|return|>", "<|user|>", "<|assistant|>", "</s>", "</tool>")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ids: <unk> 0, word 1, then those of ADDED from 2 on."""
    made = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    made.add_tokens([AddedToken(text, special=True) for text in ADDED])
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def ends(folder: Path, config: Any = None, generation: Any = None, *, template: str = "", **tokenizer: Any) -> set[str]:
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    found = end_tokens(str(folder), config or {}, generation or {}, vocab_size=10)
    names = ["<unk>", "word", *ADDED]
    assert len(set(found)) == len(found)
    return {names[id] for id in found}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, set()),
        ({"config": {"eos_token_id": 3}}, {"<|im_end|>"}),
        ({"config": {"eos_token_id": [3, 8]}}, {"<|im_end|>", "</s>"}),
        ({"generation": {"eos_token_id": 8}}, {"</s>"}),
        ({"config": {"eos_token_id": 8}, "generation": {"eos_token_id": [3, 5]}}, {"</s>", "<|im_end|>", "<|return|>"}),
        ({"config": {"text_config": {"eos_token_id": 4}}}, {"<|end|>"}),
        ({"eos_token": "</s>"}, {"</s>"}),
        ({"eos_token": {"content": "</s>", "lstrip": False}}, {"</s>"}),
        ({"eos_token": "word"}, {"word"}),  # a role of a token that no list of added tokens has
        ({"eos_token": "<nowhere>"}, set()),
        ({"template": CHATML}, {"<|im_end|>"}),
        (
            {"template": CHATML, "eos_token": "</s>", "config": {"eos_token_id": 5}},
            {"<|im_end|>", "</s>", "<|return|>"},
        ),
        ({"config": {"eos_token_id": [-1, 10, 3]}}, {"<|im_end|>"}),  # ids that the model's logits do not have
    ],
)
def test_every_place_counts(folder: Path, given: dict[str, Any], expected: set[str]) -> None:
    assert ends(folder, **given) == expected


def test_the_template_of_the_command_line_counts_instead(folder: Path, tmp_path: Path) -> None:
    (folder / "chat_template.jinja").write_text(CHATML)
    other = tmp_path / "other.jinja"
    other.write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    assert end_tokens(str(folder), {}, {}, vocab_size=10, chat_template=str(other)) == (4,)


def test_a_token_that_only_an_older_file_declares(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<|eot|>": 9}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eot|>"}))
    assert end_tokens(str(folder), {}, {}, vocab_size=20) == (9,)


@pytest.mark.parametrize("wrong", ["2", [1, "2"], 1.5, True, {"a": 1}])
def test_an_end_that_is_no_token_id_is_refused(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"eos_token_id is .* a token id or a list is expected"):
        eos_token_ids({"eos_token_id": wrong})


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
    assert template_ends(ChatTemplate({"default": source}), {"eos_token": "</s>"}, ADDED) == expected
