"""Schemas as expressions for automata: every text of one is valid, and what is declared can be written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher
from maxserve.plugins.grammar.schema import checked
from maxserve.plugins.grammar.schema_regex import schema_regex
from maxserve.testing.grammar import written

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.sampled_from(["", "é", 'q"', "\\", "a\nb"])),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
few = st.integers(0, 2)


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low, size = draw(st.integers(-500, 500)), draw(st.integers(1, 999))
    kind, bound = draw(st.sampled_from([("integer", "minimum"), ("number", "exclusiveMinimum")]))
    return {"type": kind, bound: low, "maximum": low + size}


@st.composite
def counted(draw: st.DrawFn, schema: Any, low: str, high: str) -> dict[str, Any]:
    least = draw(few)
    return {**draw(schema), low: least, high: least + draw(few)}


leaves = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": ["null", "integer"]}),
    numbers(),
    counted(st.just({"type": "string"}), "minLength", "maxLength"),
    st.builds(lambda found: {"enum": found}, st.lists(values, min_size=1, max_size=3)),
    st.builds(lambda value: {"const": value}, values),
)


def arrays(inner: Any) -> Any:
    return counted(st.builds(lambda item: {"type": "array", "items": item}, inner), "minItems", "maxItems")


def tuples(inner: Any) -> Any:
    several = st.lists(inner, min_size=1, max_size=3)
    made = st.builds(lambda found: {"type": "array", "prefixItems": found, "items": False}, several)
    return st.builds(lambda schema, low: {**schema, "minItems": low}, made, st.integers(0, 1))


def objects(inner: Any) -> Any:
    members = st.dictionaries(st.sampled_from(["a", "b c", "é", 'q"']), inner, min_size=1, max_size=3)
    return st.builds(
        lambda found, needed: {
            "type": "object",
            "properties": found,
            "required": [name for name, wanted in zip(found, needed, strict=False) if wanted],
        },
        members,
        st.lists(st.booleans(), min_size=3, max_size=3),
    )


schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        tuples(inner),
        st.builds(lambda found: {"anyOf": found}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=4,
)
SLOWLY = settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))


@given(data=st.data(), schema=schemas)
@SLOWLY
def test_every_text_is_valid(data: st.DataObject, schema: dict[str, Any]) -> None:
    expression = schema_regex(checked(json.dumps(schema)))
    text = data.draw(st.from_regex(re.compile(expression, re.ASCII), fullmatch=True))
    assert Draft202012Validator(schema).is_valid(json.loads(text)), (schema, text)


@given(data=st.data(), schema=schemas)
@SLOWLY
def test_what_a_schema_does_not_take_is_not_written(
    guidance: GrammarCompiler, data: st.DataObject, schema: dict[str, Any]
) -> None:
    """Any value that jsonschema refuses, and any it takes that comes in the order of the schema's properties."""
    value = data.draw(values)
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        make = guidance.compile("json_schema", json.dumps(schema))
    except GrammarUnsupported:
        return
    if written(make(), text):
        assert Draft202012Validator(schema).is_valid(value), (schema, text)
    elif not isinstance(value, dict | list):
        assert not Draft202012Validator(schema).is_valid(value), (schema, text)


@given(schema=schemas, seed=st.integers(0, 2))
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_what_llguidance_writes_is_valid(
    guidance: GrammarCompiler, schema: dict[str, Any], seed: int, random_text: Callable[[Matcher, int], str | None]
) -> None:
    text = random_text(guidance.compile("json_schema", json.dumps(schema))(), seed)
    assert text is None or Draft202012Validator(schema).is_valid(json.loads(text)), (schema, text)


@given(schema=schemas, seed=st.integers(0, 2))
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_both_back_ends_agree(
    guidance: GrammarCompiler, schema: dict[str, Any], seed: int, random_text: Callable[[Matcher, int], str | None]
) -> None:
    """What llguidance writes of plain schemas matches, but for members that are not declared."""
    closed = json.loads(
        json.dumps(schema).replace('"type": "object"', '"type": "object", "additionalProperties": false')
    )
    expression = re.compile(schema_regex(checked(json.dumps(closed))), re.ASCII)
    text = random_text(guidance.compile("json_schema", json.dumps(closed))(), seed)
    if text is not None and "\\u" not in text and "\x7f" not in text and len(text) < 200:
        text = text.replace(", ", ",").replace(": ", ":")  # a blank also within constants
        assert expression.fullmatch(text) or re.search(r"\d\.\d{9}", text), (closed, text)


@pytest.mark.parametrize(
    ("pattern", "valid", "invalid"),
    [
        ("^[a-z]+$", ['"ab"'], ['""', '"A"', '"a\\n"']),
        ('^[^a]"?$', ['"b"', '"b\\""', '"é"'], ['"a"', '"b""', '"""']),
        ("b", ['"abc"', '"b"', '"\\nb"'], ['"a"']),
        (r"^\n\\$", ['"\\n\\\\"'], ['"\n\\"', '"n"']),
        (r"^.{2}\t?$", ['"ab"', '"ab\\t"'], ['"ab\t"', '"a"', '"\\"a"']),
    ],
)
def test_patterns_within_strings(automata: GrammarCompiler, pattern: str, valid: list[str], invalid: list[str]) -> None:
    schema = {"type": "string", "pattern": pattern}
    make = automata.compile("json_schema", json.dumps(schema))
    for text in valid:
        assert Draft202012Validator(schema).is_valid(json.loads(text))
    for text in (*valid, *invalid):
        assert written(make(), text) == (text in valid), text


@pytest.mark.parametrize("name", ["date", "time", "date-time", "email", "uri", "uri-reference", "ipv4", "ipv6", "uuid"])
def test_formats(automata: GrammarCompiler, name: str, random_text: Callable[[Matcher, int], str | None]) -> None:
    make = automata.compile("json_schema", json.dumps({"type": "string", "format": name}))
    schema = {"type": "string", "format": name}
    checker = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    for seed in range(5):
        text = random_text(make(), seed)
        assert text is not None
        assert checker.is_valid(json.loads(text)), text


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "additionalProperties": {"type": "null"}}, "'additionalProperties' at $"),
        ({"type": "string", "maxLength": 1000}, "'maxLength' at $ above 128"),
        ({"type": "string", "maxLength": 10, "pattern": "a"}, "'pattern' at $ beside a length"),
        ({"type": "integer", "multipleOf": 2}, "'multipleOf' at $"),
        ({"type": "array"}, "'type' at $.items left out"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}, "recursive"),
        ({"enum": [1], "minimum": 3}, "'enum' at $ beside minimum"),
        ({"enum": [1], "type": "string"}, "no value is of the type"),
    ],
)
def test_refusals(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(GrammarUnsupported) as raised:
        schema_regex(checked(json.dumps(schema)))
    assert words in raised.value.message
