"""JSON schemas: keywords that are taken, left out, and refused by keyword and path."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar.schema import checked, read_schema


def read(schema: Any) -> Any:
    return checked(json.dumps(schema))


def field(**schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


def refused(schema: Any) -> str:
    with pytest.raises(GrammarUnsupported) as raised:
        read(schema)
    assert raised.value.path in raised.value.message
    return raised.value.message


# --- annotations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        field(type="integer", format="int64"),
        field(type="number", format="double"),
        field(type="integer", format="uint32", minimum=0),
        field(type="string", format="password", writeOnly=True),
        field(type="string", format="binary"),
        field(type="string", format="path"),
        field(type="string", format="byte"),
    ],
)
def test_formats_that_validate_nothing(schema: dict[str, Any]) -> None:
    found = read_schema(json.dumps(schema))
    assert "format" not in json.dumps(found.schema)
    assert f"the format {schema['properties']['a']['format']!r} at $.properties.a" in found.warnings[0]


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("x-order", 1),
        ("example", "x"),
        ("nullable", True),
        ("markdownDescription", "m"),
        ("strict", True),
        ("discriminator", {"propertyName": "k", "mapping": {"a": "#/$defs/A"}}),
        ("xml", {"name": "a"}),
        ("externalDocs", {}),
        ("enumNames", ["x"]),
        ("optional", True),
        ("x-guidance", {"lenient": True}),
        ("then", False),
        ("minContains", 3),
    ],
)
def test_unknown_keywords_are_annotations(keyword: str, value: Any) -> None:
    schema = field(enum=["x"])
    plain = read(schema)
    schema["properties"]["a"][keyword] = value
    found = read_schema(json.dumps(schema))
    assert found.schema == plain
    if keyword not in ("then", "minContains"):
        assert found.warnings[0].startswith(f"the keyword {keyword!r} at $.properties.a was left out")


def test_the_same_annotation_in_many_places_is_one_warning() -> None:
    schema = {"type": "object", "properties": {str(i): {"type": "string", "example": "x"} for i in range(40)}}
    (warning,) = read_schema(json.dumps(schema)).warnings
    assert warning.startswith("the keyword 'example' at $.properties[\"0\"] and 39 more")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("$id", "https://example.com/tool.json"),
        ("$id", "#/properties/a"),
        ("id", "urn:x"),
        ("$schema", "http://json-schema.org/draft-07/schema#"),
        ("$schema", "https://spec.openapis.org/oas/3.1/dialect/base"),
        ("$anchor", "here"),
        ("$comment", "c"),
        ("title", "T"),
        ("description", "d"),
        ("default", {"$ref": "#/nowhere"}),
        ("examples", [{"not": 1}]),
        ("deprecated", True),
        ("readOnly", True),
        ("contentMediaType", "text/html"),
        ("$defs", {"unused": {"not": {"type": "string"}}}),
    ],
)
def test_the_vocabulary_of_annotations(keyword: str, value: Any) -> None:
    found = read_schema(
        json.dumps({"type": "object", keyword: value, "properties": {"a": {"type": "string", keyword: value}}})
    )
    assert found.schema == {"type": "object", "properties": {"a": {"type": "string"}}}
    assert not found.warnings


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", {"type": "string"}),
        ("contains", {}),
        ("uniqueItems", True),
        ("propertyNames", {"minLength": 2}),
        ("dependentRequired", {"a": ["b"]}),
        ("dependentSchemas", {"a": {}}),
        ("dependencies", {"a": ["b"]}),
        ("$dynamicRef", "#a"),
        ("divisibleBy", 2),
    ],
)
def test_what_is_not_kept_is_refused_by_name(keyword: str, value: Any) -> None:
    assert f"keyword {keyword!r} at $.properties.a is not supported" in refused(field(**{keyword: value}))


def test_conditions_are_refused() -> None:
    assert "keyword 'if' at $.properties.a" in refused(field(**{"if": {"type": "string"}, "then": {"minLength": 1}}))


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("not", False),
        ("uniqueItems", False),
        ("propertyNames", {"type": "string"}),
        ("propertyNames", True),
        ("dependentRequired", {}),
        ("unevaluatedProperties", True),
        ("if", {"type": "string"}),
    ],
)
def test_assertions_that_hold_anyway(keyword: str, value: Any) -> None:
    assert read(field(type="string", **{keyword: value}))["properties"]["a"]["type"] == "string"


# --- spellings of older drafts, and other forms of the same -----------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ({"minimum": 1, "exclusiveMinimum": True}, {"exclusiveMinimum": 1}),
        ({"maximum": 1, "exclusiveMaximum": False}, {"maximum": 1}),
        ({"items": [{"type": "null"}], "additionalItems": False}, {"prefixItems": [{"type": "null"}], "items": False}),
        ({"type": "object", "unevaluatedProperties": False}, {"type": "object", "additionalProperties": False}),
        (
            {"type": "object", "propertyNames": {"pattern": "^a$"}, "additionalProperties": {"type": "null"}},
            {"type": "object", "patternProperties": {"^a$": {"type": "null"}}, "additionalProperties": False},
        ),
        (
            {"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}},
            {
                "type": "object",
                "properties": {"a": {"type": "null"}, "b": {"type": "null"}},
                "additionalProperties": False,
            },
        ),
        ({"type": "object", "properties": {"a": {"not": {}}}}, {"type": "object", "properties": {"a": False}}),
        (
            {"type": "object", "properties": {"a": {"type": "null", "required": True}}},
            {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]},
        ),
        ({"type": "array", "uniqueItems": True, "items": {"enum": [1, 2]}}, {"enum": [[], [1], [2], [1, 2], [2, 1]]}),
        ({"type": "array", "uniqueItems": True, "maxItems": 1}, {"type": "array", "maxItems": 1}),
        ({"type": "string", "maxLength": 2**31 - 1}, {"type": "string", "maxLength": 65_536}),
        ({"type": "string", "pattern": "^a$", "format": "uri"}, {"type": "string", "pattern": "^a$"}),
        ({"type": "object", "maxProperties": 9, "properties": {"a": True}, "additionalProperties": False},
         {"type": "object", "properties": {"a": True}, "additionalProperties": False}),
    ],
)  # fmt: skip
def test_other_words_for_the_same(written: Any, meant: Any) -> None:
    assert read(written) == read(meant)


def test_many_values_without_repetition_come_in_their_order() -> None:
    arrays = read({"type": "array", "items": {"enum": list("abcdefgh")}, "uniqueItems": True, "minItems": 1})["enum"]
    assert all(array == sorted(array) for array in arrays)
    assert len(arrays) == 2**8 - 1


# --- references ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"x": {"const": 1}}, "$ref": "#/$defs/x"},
        {"$defs": {"x": {"const": 1, "$anchor": "one"}}, "$ref": "#one"},
        {"definitions": {"x": {"const": 1, "$id": "#one"}}, "$ref": "#one"},
        {"$defs": {"x": {"const": 1, "$id": "T0"}}, "$ref": "T0"},  # TypeBox
        {"$id": "https://e.com/a/t.json", "$defs": {"x": {"const": 1}}, "$ref": "https://e.com/a/t.json#/$defs/x"},
        {"$id": "https://e.com/a/t.json", "$defs": {"x": {"const": 1, "$id": "x.json"}}, "$ref": "/a/x.json"},
        {"$defs": {"e": {"$id": "urn:e", "$ref": "#/$defs/x", "$defs": {"x": {"const": 1}}}}, "$ref": "#/$defs/e"},
        {"$defs": {"e": {"$id": "urn:e", "$ref": "#/$defs/x"}, "x": {"const": 1}}, "$ref": "#/$defs/e"},
        {"$defs": {"a/b~c d": {"const": 1}}, "$ref": "#/$defs/a~1b~0c%20d"},
    ],
)
def test_references(schema: dict[str, Any]) -> None:
    found = read(schema)
    while "$ref" in found:
        found = {**found["$defs"][found["$ref"].rpartition("/")[2]], "$defs": found["$defs"]}
    assert found["const"] == 1


@pytest.mark.parametrize("ref", ["#/$defs/none", "#none", "http://e.com/x", "other.json", 3])
def test_references_that_lead_nowhere(ref: Any) -> None:
    assert "'$ref'" in refused(field(**{"$ref": ref}))


def test_circles_and_what_needs_itself() -> None:
    assert "'$ref' leads back to itself" in refused({"$ref": "#"})
    circle = {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]}, "b": {"$ref": "#/$defs/a"}}}
    assert "leads back to itself" in refused(circle)
    assert "no finite value" in refused(field(**{"$ref": "#"}))


def test_what_needs_itself_is_never_begun() -> None:
    endless = {"type": "object", "properties": {"n": {"$ref": "#/$defs/e"}}, "required": ["n"]}
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/e"}}, "$defs": {"e": endless}}
    assert read(schema)["$defs"] == {"0": False}


# --- oneOf --------------------------------------------------------------------------------------------------------

A = {"type": "object", "properties": {"k": {"const": "a"}}, "required": ["k"]}
B = {"type": "object", "properties": {"k": {"const": "b"}}, "required": ["k"]}


@pytest.mark.parametrize(
    "branches",
    [
        [{"type": "string"}, {"type": "null"}],
        [{"type": "integer", "maximum": 3}, {"type": "number", "exclusiveMinimum": 3}],
        [{"const": 1}, {"enum": [2, "1"]}],
        [A, B],
        [A, {"anyOf": [B, {"type": "null"}]}],
        [{"type": "array"}, {"type": "object"}, {"type": ["string", "null"]}],
        [{"allOf": [{"type": "string"}]}, {"type": "integer"}],
    ],
)
def test_branches_that_exclude_each_other(branches: list[Any]) -> None:
    assert read({"oneOf": branches}) == {"anyOf": [read(branch) for branch in branches]}


def test_one_of_several_members() -> None:
    found = read({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b", "c"]}]})
    assert found["anyOf"] == [
        {"required": ["a"], "properties": {"b": False, "c": False}},
        {"required": ["b", "c"], "properties": {"a": False}},
    ]
    assert "'oneOf'" in refused({"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["a", "b"]}]})


def test_the_tag_of_a_union_is_needed() -> None:
    """pydantic's tagged unions: the tag has a default, so that the schema does not require it."""
    defs = {name: {"type": "object", "properties": {"k": {"const": name}}} for name in "AB"}
    schema = {
        "oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}],
        "discriminator": {"propertyName": "k"},
        "$defs": defs,
    }
    found = read(schema)
    assert found["anyOf"] == [{**defs[name], "required": ["k"]} for name in "AB"]


@pytest.mark.parametrize("branches", [[{"type": "integer"}, {"type": "number"}], [A, {"type": "object"}], [{}, {}]])
def test_branches_that_may_be_valid_at_once_are_refused(branches: list[Any]) -> None:
    assert "keyword 'oneOf' at $.properties.a is not supported" in refused(field(oneOf=branches))


# --- size ---------------------------------------------------------------------------------------------------------


def chains(count: int, length: int) -> dict[str, Any]:
    """Many references beside a chain of them."""
    definitions: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(length)}
    definitions[f"d{length}"] = {"type": "null"}
    return {
        "type": "object",
        "properties": {f"p{i}": {"$ref": f"#/$defs/d{i % length}"} for i in range(count)},
        "$defs": definitions,
    }


def test_reading_takes_time_in_proportion() -> None:
    """Eight times the schemas, and by far not 64 times the work; of processor time, which load does not stretch."""

    def seconds(factor: int) -> float:
        text, found = json.dumps(chains(300 * factor, 150 * factor)), []
        for _ in range(3):
            start = time.process_time()
            checked(text)
            found.append(time.process_time() - start)
        return min(found)

    assert seconds(8) < 32 * seconds(1) + 0.05


def test_a_long_chain_of_references_is_followed() -> None:
    assert read(chains(1, 3000))["properties"]["p0"] == {"$ref": "#/$defs/0"}


def test_too_many_schemas_are_refused() -> None:
    assert "more than 5000 schemas" in refused({"anyOf": [{"type": "null"}] * 6000})


def test_what_repeats_itself_is_bounded() -> None:
    schema: Any = {"type": "null"}
    for _ in range(60):
        schema = {"type": "object", "properties": {"a": schema, **{f"x{i}": {"type": "null"} for i in range(30)}}}
    path = "#"
    refs = {f"r{i}": {"$ref": (path := f"{path}/properties/a")} for i in range(50)}
    assert "repeats itself" in refused({**schema, "properties": {**schema["properties"], **refs}})
