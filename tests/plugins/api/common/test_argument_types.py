"""Values of arguments have the types that the schema of their tool gives them."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.plugins.api.common.argument_types import ArgumentType

PLACE = {"type": "object", "properties": {"x": {"type": "integer"}, "tags": {"$ref": "#/$defs/Tags"}}}
ROOT = {
    "$id": "https://example.com/put",
    "type": "object",
    "$defs": {"Place": PLACE, "Tags": {"type": "array", "items": {"type": "string"}}, "a/b": {"enum": [1, 2]}},
    "properties": {
        "optional": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": 5},
        "list": {"oneOf": [{"type": "array", "items": {"type": "string"}}, {"type": "null"}]},
        "word": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
        "at": {"$ref": "#/$defs/Place"},
        "absolute": {"$ref": "https://example.com/put#/$defs/Place"},
        "escaped": {"$ref": "#/$defs/a~1b"},
        "nowhere": {"$ref": "#/$defs/None"},
        "to": {"allOf": [{"$ref": "#/$defs/Place"}], "description": "where to"},
        "on": {"type": "boolean"},
        "room": {"type": ["integer", "null"]},
        "nullable": {"type": "integer", "nullable": True},
        "level": {"enum": [1, 2, 3]},
        "unit": {"enum": ["C", "F", "7"]},
        "mixed": {"enum": ["auto", 3, None]},
        "fixed": {"const": 1.5},
        "text": {"type": "string"},
        "share": {"type": "number"},
        "anything": {},
        "described": {"description": "what you like"},
        "implied": {"properties": {"x": {"type": "integer"}}},
        "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
        "pair": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "items": False},
        "sloppy": {"type": "int"},
        "true": True,
    },
    "additionalProperties": {"type": "integer"},
}

READ: list[tuple[str, str, Any]] = [
    ("optional", "7", 7),
    ("optional", "null", None),
    ("optional", "None", None),
    ("optional", "many", "many"),
    ("list", '["a", "b"]', ["a", "b"]),
    ("list", "['a', \"b\"]", ["a", "b"]),
    ("list", "null", None),
    ("word", "42", "42"),
    ("word", "null", None),
    ("word", "None", "None"),
    ("either", "7", 7),
    ("either", "seven", "seven"),
    ("at", '{"x": 3}', {"x": 3}),
    ("at", "{'x': '3', 'tags': ['1', 2]}", {"x": 3, "tags": ["1", "2"]}),
    ("at", '"{\\"x\\": 3}"', {"x": 3}),
    ("absolute", '{"x": 3}', {"x": 3}),
    ("escaped", "2", 2),
    ("nowhere", '{"x": 3}', {"x": 3}),
    ("to", '{"x": 4}', {"x": 4}),
    ("on", "True", True),
    ("on", "false", False),
    ("on", "yes", "yes"),
    ("room", "None", None),
    ("nullable", "null", None),
    ("level", "2", 2),
    ("unit", "7", "7"),
    ("unit", '"C"', "C"),
    ("unit", " F ", "F"),
    ("mixed", "3", 3),
    ("mixed", "auto", "auto"),
    ("mixed", "null", None),
    ("fixed", "1.5", 1.5),
    ("text", "7", "7"),
    ("text", '{"x": 3}', '{"x": 3}'),
    ("text", '"quoted"', '"quoted"'),
    ("text", " spaces ", " spaces "),
    ("share", "1", 1),
    ("share", "1e999", "1e999"),
    ("share", "NaN", "NaN"),
    ("optional", "7.0", 7),
    ("anything", '{"x": 3}', {"x": 3}),
    ("anything", "7", "7"),
    ("described", "[1]", [1]),
    ("described", "words", "words"),
    ("implied", '{"x": "3"}', {"x": 3}),
    ("matrix", '[["1", 2.5], "[3]"]', [[1, 2.5], [3]]),
    ("pair", '["1", 2]', [1, "2"]),
    ("sloppy", "7", 7),
    ("true", "7", "7"),
    ("undeclared", "7", 7),
]


@pytest.mark.parametrize(("name", "text", "value"), READ)
def test_text_becomes_a_value_of_its_type(name: str, text: str, value: Any) -> None:
    read = ArgumentType(ROOT).member(name).of_text(text)
    assert (read, type(read)) == (value, type(value))


def test_branches_with_the_same_member_admit_both_types() -> None:
    branches = [{"properties": {"value": {"type": kind}, "kind": {"const": kind}}} for kind in ("integer", "string")]
    both = ArgumentType({"oneOf": branches})
    assert both.conformed({"value": "7", "kind": "string"}) == {"value": "7", "kind": "string"}


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_valid_value_stays_and_its_text_is_read_back(data: st.DataObject) -> None:
    """What a model writes correctly is not touched, whatever the schema says."""
    value = data.draw(_VALUES)
    schema = {"$defs": {"T": _schema_of(value)}, "anyOf": [{"$ref": "#/$defs/T"}, {"type": "null"}]}
    jsonschema.validate(value, schema)
    kind = ArgumentType(schema)
    assert kind.conformed(value) == value
    text = value if isinstance(value, str) else json.dumps(value)
    if text != "null":
        assert kind.of_text(text) == value


_VALUES = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _schema_of(value: Any) -> dict[str, Any]:
    if isinstance(value, dict):
        return {"type": "object", "properties": {name: _schema_of(item) for name, item in value.items()}}
    if isinstance(value, list):
        return {"type": "array", **({"prefixItems": [_schema_of(item) for item in value]} if value else {})}
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    return {"type": kinds[type(value)]}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"anyOf": [{"$ref": "#"}, {"$ref": "#"}], "allOf": [{"$ref": "#"}]},
        {
            "$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(300)},
            "$ref": "#/$defs/d0",
        },
        {"type": 7, "enum": "x", "properties": [], "anyOf": {}, "$ref": 1},
        False,
        None,
    ],
)
def test_odd_schemas_admit_everything_at_once(schema: Any) -> None:
    begun = time.perf_counter()
    kind = ArgumentType(schema)
    assert kind.of_text("7") == "7"
    assert kind.member("a").item(3).of_text('{"b": []}') == {"b": []}
    assert time.perf_counter() - begun < 1


@pytest.mark.parametrize("text", ["[" * 5000, "{'a': " * 3000, "-" * 10000, "1" * 10000, "(" * 300])
def test_texts_that_are_hard_to_read_stay_texts(text: str) -> None:
    assert ArgumentType({"type": "array"}).of_text(text) == text
