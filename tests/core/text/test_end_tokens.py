"""The tokens that end an answer, in each file where a checkpoint names one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.text.end_tokens import end_tokens, eos_token_ids
from maxserve.plugins.api.common.chat_template import JinjaTemplate
from maxserve.plugins.tokenizers.special_tokens import DeclaredTokens

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
    chat = JinjaTemplate.load(str(folder), None) if template else None
    found = end_tokens(DeclaredTokens(folder), config or {}, generation or {}, vocab_size=10, template=chat)
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
    template = JinjaTemplate.load(str(folder), str(other))
    assert end_tokens(DeclaredTokens(folder), {}, {}, vocab_size=10, template=template) == (4,)


def test_a_token_that_only_an_older_file_declares(folder: Path) -> None:
    (folder / "added_tokens.json").write_text(json.dumps({"<|eot|>": 9}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|eot|>"}))
    assert end_tokens(DeclaredTokens(folder), {}, {}, vocab_size=20) == (9,)


@pytest.mark.parametrize("wrong", ["2", [1, "2"], 1.5, True, {"a": 1}])
def test_an_end_that_is_no_token_id_is_refused(wrong: Any) -> None:
    with pytest.raises(ModelError, match=r"eos_token_id is .* a token id or a list is expected"):
        eos_token_ids({"eos_token_id": wrong})
