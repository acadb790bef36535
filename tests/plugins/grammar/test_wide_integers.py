"""Schemas with integers that no float holds: what surrounds them is as llguidance has it, the digits are exact."""

from __future__ import annotations

import json
from typing import Any

import pytest

from maxserve.core.interfaces.grammar import GrammarCompiler
from maxserve.plugins.grammar.llguidance import WORDING
from maxserve.plugins.grammar.schema import checked
from maxserve.plugins.grammar.wide_integers import wide_grammar
from maxserve.testing.grammar import written

LAST, FIRST = 2**63 - 1, -(2**63)
UINT64 = {"type": "integer", "minimum": 0, "maximum": 2**64 - 1}
INT64 = {"type": "integer", "minimum": FIRST, "maximum": LAST}
MEMBERS: dict[str, Any] = {
    "type": "object",
    "properties": {"a/b": UINT64, "s": {"type": "string"}, "t": {"type": ["integer", "null"], "minimum": 2**60 + 1}},
    "required": ["a/b"],
}
TREE: dict[str, Any] = {
    "type": "object",
    "properties": {"s": {"type": "string"}, "n": {"$ref": "#/$defs/N"}},
    "additionalProperties": False,
    "$defs": {
        "N": {
            "type": "object",
            "properties": {"id": UINT64, "kids": {"type": "array", "items": {"$ref": "#/$defs/N"}}},
            "required": ["id", "kids"],
            "additionalProperties": False,
        }
    },
}
WHOLE = {
    "type": "object",
    "properties": {"c": {"type": "object", "properties": {"$ref": INT64}, "required": ["$ref"]}, "me": {"$ref": "#"}},
}
CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (
        MEMBERS,
        [
            '{"a/b":18446744073709551615}',
            '{"a/b": 5, "s":"x\\n"}',
            '{"a/b":5,"t":null}',
            '{"a/b":1,"z":1,"y":{"a":2}}',
            f'{{"a/b":5,"t":{2**60 + 1},"z":[{{}}]}}',
        ],
        ["{}", '{"a/b":-1}', f'{{"a/b":5,"t":{2**60}}}', '{"a/b":5,"a/b":6}', '{"s":"x"}', '{"a/b":5,"s":3}'],
    ),
    (
        TREE,
        ["{}", '{"s":"a"}', '{"n":{"id":18446744073709551615,"kids":[{"id":1,"kids":[]}, {"id":2,"kids":[]}]}}'],
        ['{"n":{"id":18446744073709551616,"kids":[]}}', '{"z":1}', '{"n":{"id":1,"kids":[1]}}'],
    ),
    (WHOLE, [f'{{"c":{{"$ref":{LAST}}}}}', '{"me":{"me":{}}}', '{"x":{}}'], ['{"c":{}}', '{"me":1}']),
    ({"type": "array", "items": UINT64, "minItems": 1, "maxItems": 2}, ["[1]", f"[1, {2**64 - 1}]"], ["[]", "[1,2,3]"]),
    ({"type": "array", "items": UINT64}, ["[]", "[1,2,3]"], [f"[{2**64}]", "[1,]"]),
    (
        {"type": "array", "prefixItems": [UINT64, {"type": "string"}], "minItems": 1},
        ["[1]", '[1,"a"]', '[1,"a",{"x":1}]'],
        ["[]", '["a"]'],
    ),
    (
        {"type": "array", "prefixItems": [UINT64, {"type": "string"}], "minItems": 2, "maxItems": 2},
        ['[1,"a"]'],
        ["[1]", '[1,"a",{"x":1}]'],
    ),
    ({"type": "object", "additionalProperties": INT64}, ["{}", f'{{"a":{LAST}, "b":1}}'], [f'{{"a":{LAST + 1}}}']),
    ({"anyOf": [UINT64, {"type": "null"}, {"type": "string", "maxLength": 2}]}, ["null", '"ab"'], ['"abc"', "-1"]),
    ({"allOf": [UINT64]}, [f"{2**64 - 1}"], [f"{2**64}"]),
    (
        {"type": "object", "properties": {"a": {**UINT64, "multipleOf": 3}, "b": UINT64}, "required": ["b"]},
        ['{"b":18446744073709551615}', '{"a":9,"b":1}'],
        ['{"a":10,"b":1}', '{"a":3}'],
    ),
    ({"type": "object", "required": ["x"], "additionalProperties": UINT64}, ['{"x":1}', '{"x":1,"y":2}'], ["{}"]),
    ({"type": "object", "properties": {"x": False, "y": INT64}}, ["{}", '{"y":1}', '{"z":1}'], ['{"x":1}']),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), CASES)
def test_what_surrounds_wide_integers(
    guidance: GrammarCompiler, schema: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    make = guidance.compile("json_schema", json.dumps(schema))
    for text in (*valid, *invalid):
        assert written(make(), text) == (text in valid), text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "minimum": 0, "maximum": 2**53},
        {"type": "number", "maximum": 2**63},
        {"type": "object", "properties": {"a": {"enum": [1, 2**62]}}},
    ],
)
def test_what_floats_hold_is_left_to_llguidance(schema: dict[str, Any]) -> None:
    assert wide_grammar(checked(json.dumps(schema)), WORDING) is None


def test_a_long_list_of_wide_properties_is_taken(guidance: GrammarCompiler) -> None:
    members = {f"f{i}": INT64 if i % 2 else {"type": "string", "maxLength": i + 1} for i in range(300)}
    for required in ([], ["f0"]):
        schema = {"type": "object", "properties": members, "required": required}
        make = guidance.compile("json_schema", json.dumps(schema))
        assert written(make(), '{"f0":"a","f299":1}')
        assert not written(make(), '{"f0":"abc"}')
        assert not written(make(), '{"f1":1,"f0":"a"}')


def test_a_chain_of_definitions_is_no_deeper_than_rules_may_be(guidance: GrammarCompiler) -> None:
    """Left to llguidance's own reader, with bounds that moved inwards."""
    definitions: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2_000)}
    schema = {"$ref": "#/$defs/d0", "$defs": {**definitions, "d2000": UINT64}}
    assert wide_grammar(checked(json.dumps(schema)), WORDING) is None
