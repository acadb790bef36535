"""Templates from the files of a model, and what one may do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.plugins.api.common.chat_template import JinjaTemplate

CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


def template(source: str) -> JinjaTemplate:
    return JinjaTemplate({"default": source})


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.clear() }}",
        "{{ messages.extend(messages) }}",
        "{% for m in messages %}{{ messages.append(m) }}{% endfor %}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception.__globals__.os }}",
        "{{ strftime_now.__func__.__globals__ }}",
        "{% set ns = namespace(_x=1) %}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace.__init__.__globals__ }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(RequestError):
        template(source).render({"messages": CHAT})


def test_lists_of_a_templates_own_may_grow() -> None:
    source = "{% set ns = namespace(ids=[]) %}{% for m in messages %}{% set _ = ns.ids.append(m.role) %}{% endfor %}"
    made = template(source + "{{ ns.ids.pop(0) }} {{ ns.ids | length }}")
    assert made.render({"messages": CHAT}) == "user 1"


def test_what_a_template_takes_from_its_messages_is_not_gone() -> None:
    made, given = template("{% set _ = messages.pop() %}{{ messages | length }}"), {"messages": CHAT}
    assert [made.render(given) for _ in range(2)] == ["1", "1"]


def load_rendered(folder: Path, override: str | None = None, *, tools: bool = False) -> str:
    return JinjaTemplate.load(str(folder), override).render({"messages": CHAT}, tools=tools)


def test_files_come_in_order(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "json"}))
    assert load_rendered(tmp_path) == "json"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "config"}))
    assert load_rendered(tmp_path) == "config"
    (tmp_path / "chat_template.jinja").write_text("jinja")
    assert load_rendered(tmp_path) == "jinja"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("extra")
    assert load_rendered(tmp_path, tools=True) == "extra"
    assert load_rendered(tmp_path) == "jinja"
    (tmp_path / "mine.jinja").write_text("mine")
    assert load_rendered(tmp_path, str(tmp_path / "mine.jinja"), tools=True) == "mine"


@pytest.mark.parametrize("form", ["list", "object"])
def test_named_templates(tmp_path: Path, form: str) -> None:
    named = {"default": "plain", "tool_use": "tools"}
    declared: Any = named if form == "object" else [{"name": k, "template": v} for k, v in named.items()]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": declared}))
    assert load_rendered(tmp_path) == "plain"
    assert load_rendered(tmp_path, tools=True) == "tools"
    assert JinjaTemplate.load(str(tmp_path), None).source(tools=True) == "tools"


def test_named_templates_without_default_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": {"rag": "x", "cot": "y"}}))
    with pytest.raises(RequestError, match=r"\(cot, rag\) and none is the default"):
        load_rendered(tmp_path)


def test_an_override_may_be_json(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"chat_template": "inside"}))
    assert load_rendered(tmp_path, str(file)) == "inside"
    file.write_text('{"other": 1}')
    assert load_rendered(tmp_path, str(file)) == '{"other": 1}'


def test_an_override_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.jinja").write_text("home")
    assert load_rendered(tmp_path, "~/t.jinja") == "home"


def test_bad_overrides_are_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"--chat-template .*nowhere\.jinja: does not exist"):
        JinjaTemplate.load(str(tmp_path), str(tmp_path / "nowhere.jinja"))
    with pytest.raises(ModelError, match="is a folder, not a file"):
        JinjaTemplate.load(str(tmp_path), str(tmp_path))
    (tmp_path / "latin.jinja").write_bytes(b"\xff\xfe caf\xe9")
    with pytest.raises(ModelError, match="cannot be read as UTF-8"):
        JinjaTemplate.load(str(tmp_path), str(tmp_path / "latin.jinja"))
    (tmp_path / "broken.jinja").write_text("line\n{% for %}")
    with pytest.raises(ModelError, match=r"not a valid Jinja template: .*\(line 2\); give another one"):
        JinjaTemplate.load(str(tmp_path), str(tmp_path / "broken.jinja"))
