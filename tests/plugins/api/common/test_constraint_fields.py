"""One constraint out of every spelling of it."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.interfaces.errors import RequestError
from maxserve.plugins.api.common.constraint_fields import ConstraintFields, constraint_asked

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
NAMED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


def asked(**fields: Any) -> tuple[str, Any] | None:
    found = constraint_asked(ConstraintFields.model_validate(fields))
    return None if found is None else (found.kind, found.value)


@pytest.mark.parametrize(
    ("fields", "kind", "value"),
    [
        ({"response_format": NAMED}, "json_schema", SCHEMA),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, "json_schema", SCHEMA),
        ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, "json_schema", SCHEMA),
        ({"response_format": {"type": "json_object"}}, "json_object", None),
        ({"structured_outputs": {"json": SCHEMA, "disable_any_whitespace": True}}, "json_schema", SCHEMA),
        ({"guided_json": SCHEMA}, "json_schema", SCHEMA),
        ({"json_schema": '{"type": "null"}'}, "json_schema", '{"type": "null"}'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"ebnf": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
        ({"grammar": 'root ::= "a"'}, "grammar", 'root ::= "a"'),
    ],
)
def test_spellings(fields: dict[str, Any], kind: str, value: Any) -> None:
    assert asked(**fields) == (kind, value)


@pytest.mark.parametrize(
    ("new", "old", "value"),
    [
        ("grammar", "guided_grammar", 'start: "yes" | "no"'),
        ("grammar", "ebnf", 'start: "yes" | "no"'),
        ("regex", "guided_regex", "[ab]{3}"),
        ("regex", "regex", "[ab]{3}"),
        ("choice", "guided_choice", ["a", "b"]),
        ("json", "guided_json", {"enum": [1, 2]}),
        ("json", "json_schema", '{"enum":  [1, 2]}'),
    ],
)
def test_the_same_in_two_spellings_is_one(new: str, old: str, value: Any) -> None:
    said = {"enum": [1, 2]} if new == "json" else value
    assert asked(**{"structured_outputs": {new: said}, old: value}) == asked(structured_outputs={new: said})


def test_three_that_are_equal() -> None:
    assert asked(response_format=NAMED, structured_outputs={"json": SCHEMA}, guided_json=SCHEMA) == (
        "json_schema",
        SCHEMA,
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"structured_outputs": {"regex": "a"}, "guided_regex": "b"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"guided_json": {"const": 1}, "json_schema": {"const": True}}, "json_schema"),
        ({"guided_json": {"const": 1}, "response_format": {"type": "json_object"}}, "guided_json"),
        ({"regex": "a", "ebnf": "a"}, "ebnf"),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {**NAMED, "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {"type": "json_object", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
    ],
)
def test_what_differs_is_refused(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as raised:
        asked(**fields)
    assert raised.value.param == param
    assert param in raised.value.message
