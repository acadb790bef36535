"""The ends of answers of a model that names them in one file only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import maxserve
from maxserve.core.interfaces.request import Constraint

QUESTION = [{"role": "user", "content": "What does --max-length do?"}]
LENGTH = 200


@pytest.fixture(scope="module")
def whole() -> Any:
    return maxserve.LLM().chat(QUESTION, temperature=0, max_tokens=LENGTH)


@pytest.fixture(params=["tokenizer", "template", "text_config", "generation_config", "config"])
def named_once(demo_copy: Path, request: pytest.FixtureRequest) -> Any:
    """The demo model, of which one file alone still names <|im_end|>."""
    _edit(demo_copy / "config.json", eos_token_id=[2] if request.param == "config" else None)
    _edit(demo_copy / "config.json", text_config={"eos_token_id": 2 if request.param == "text_config" else None})
    _edit(demo_copy / "generation_config.json", eos_token_id=2 if request.param == "generation_config" else 0)
    _edit(
        demo_copy / "tokenizer_config.json", eos_token="<|im_end|>" if request.param == "tokenizer" else "<|endoftext|>"
    )
    if request.param != "template":
        (demo_copy / "chat_template.jinja").write_text(_without_end((demo_copy / "chat_template.jinja").read_text()))
    return maxserve.LLM(str(demo_copy))


def test_an_answer_ends_wherever_its_end_is_named(named_once: Any, whole: Any) -> None:
    prompt = maxserve.LLM(defer_resolve=True).render(QUESTION)
    done = named_once.generate(prompt, temperature=0, max_tokens=LENGTH)[0]
    assert (done.text, done.finish, done.tokens) == (whole.text, "stop", whole.tokens)
    assert done.tokens[-1] == 2

    ignoring = named_once.generate(prompt, temperature=0, max_tokens=LENGTH, ignore_eos=True)[0]
    assert (ignoring.finish, len(ignoring.tokens)) == ("length", LENGTH)
    assert ignoring.tokens[: len(done.tokens)] == done.tokens

    longer = named_once.generate(prompt, temperature=0, max_tokens=LENGTH, min_tokens=len(done.tokens) + 5)[0]
    assert len(longer.tokens) >= len(done.tokens) + 5
    assert not {0, 2}.intersection(longer.tokens[: len(done.tokens) + 4])

    choice = Constraint(kind="choice", text='["yes", "no"]', backend="llguidance")
    assert named_once.generate(prompt, max_tokens=9, constraint=choice)[0].text in ("yes", "no")


def _edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def _without_end(template: str) -> str:
    assert "<|im_end|>" in template
    return template.replace("<|im_end|>", "")
