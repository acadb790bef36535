from __future__ import annotations

import json
from typing import Any

import pytest

from maxserve.plugins.api.common.past_calls import (
    CallForm,
    arguments_object,
    arguments_text,
    has_calls,
    in_words,
    with_form,
)

DEEP = "[" * 100_000 + "]" * 100_000


def caller(arguments: Any, **fields: Any) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": "write", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call], **fields}


def arguments_of(message: dict[str, Any]) -> Any:
    return message["tool_calls"][0]["function"]["arguments"]


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ('{"a": [1]}', {"a": [1]}),
        ({"a": 1}, {"a": 1}),
        ("", {}),
        (" \n", {}),
        ("null", {}),
        (None, {}),
        ('{"a": "cut', None),
        ("write it", None),
        ("[1]", None),
        ('"text"', None),
        ("3", None),
        (DEEP, None),
        ('{"half": "\\ud83d"}', None),
        ([1], None),
    ],
)
def test_arguments_as_objects(arguments: Any, value: Any) -> None:
    assert arguments_object(arguments) == value


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ('{"a":1}', '{"a":1}'),
        ({"a": "é"}, '{"a": "é"}'),
        (None, "{}"),
        ("null", "{}"),
        ("", "{}"),
        ("write it", "write it"),
        ([1], "[1]"),
    ],
)
def test_arguments_as_text(arguments: Any, text: str) -> None:
    assert arguments_text(arguments) == text


def test_broken_arguments_stay_what_the_model_wrote() -> None:
    broken = '{"text": "and then'
    assert arguments_of(with_form([caller(broken)], CallForm())[0]) == broken
    assert arguments_of(with_form([caller(broken)], CallForm(text=True))[0]) == broken
    assert arguments_of(with_form([caller(broken)], CallForm(broken_text=False))[0]) == {"arguments": broken}


def test_calls_that_are_no_calls_are_handed_on() -> None:
    odd = {"role": "assistant", "tool_calls": [None, "x", {"function": None}, {"name": "f", "arguments": "{}"}]}
    assert with_form([odd], CallForm())[0]["tool_calls"] == [
        None,
        "x",
        {"function": None},
        {"name": "f", "arguments": {}},
    ]
    assert json.loads(in_words([odd])[0]["content"])[-1] == {"name": "f", "arguments": {}}


def test_ids_and_names_as_some_templates_want_them() -> None:
    turns = [caller("{}"), {"role": "tool", "tool_call_id": "call_1", "content": "done"}]
    call, result = with_form(turns, CallForm(short_ids=True, named=True))
    id = call["tool_calls"][0]["id"]
    assert id == result["tool_call_id"]
    assert len(id) == 9
    assert id.isalnum()
    assert result["name"] == "write"
    kept = with_form([{"role": "tool", "tool_call_id": "abc123XYZ", "content": ""}], CallForm(short_ids=True))
    assert kept[0]["tool_call_id"] == "abc123XYZ"


@pytest.mark.parametrize(
    ("empties", "content"), [(("null",), {"content": None}), (("text",), {"content": ""}), (("absent",), {})]
)
def test_a_callers_empty_content_in_the_form_that_shows_the_call(empties: Any, content: dict[str, Any]) -> None:
    for given in ({}, {"content": ""}):
        message = with_form([caller("{}", **given)], CallForm(empties=empties))[0]
        assert {name: message[name] for name in ("content",) if name in message} == content
    assert with_form([caller("{}", content="x")], CallForm(empties=empties))[0]["content"] == "x"


def test_calls_and_results_in_words() -> None:
    told = in_words([caller('{"a": 1}', content="I write."), {"role": "tool", "content": "done"}, {"role": "user"}])
    assert told[0] == {"role": "assistant", "content": 'I write.\n[{"name": "write", "arguments": {"a": 1}}]'}
    assert told[1] == {"role": "user", "content": "Result of the call: done"}
    assert told[2] == {"role": "user"}
    assert has_calls([caller("")])
    assert has_calls([{"role": "tool"}])
    assert not has_calls(told)
