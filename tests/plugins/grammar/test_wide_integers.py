"""Schemas with integers that no float holds: what surrounds them is as llguidance has it, the digits are exact."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher
from maxserve.plugins.grammar.llguidance_kinds import WORDING
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


def test_a_chain_of_references_ends_at_its_target(guidance: GrammarCompiler) -> None:
    definitions: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(2_000)}
    make = guidance.compile(
        "json_schema", json.dumps({"$ref": "#/$defs/d0", "$defs": {**definitions, "d2000": UINT64}})
    )
    assert written(make(), str(2**64 - 1))
    assert not written(make(), str(2**64))


# --- what holds at once, against jsonschema --------------------------------------------------------------------

NEAR = [0, 2**31, 2**53, 2**62, 2**63, 2**64, -(2**53), -(2**63)]
numbers = st.builds(int.__add__, st.sampled_from(NEAR), st.integers(-40, 40))
steps = st.sampled_from([1, 2, 3, 5, 10, 12, 60, 100, 1000, 1024])


@st.composite
def said_of_integers(draw: st.DrawFn) -> dict[str, Any]:
    """Some of the keywords of an integer, maybe not its type."""
    low, high = sorted((draw(numbers), draw(numbers)))
    every = {
        "type": "integer",
        "minimum": low,
        "exclusiveMinimum": low - 1,
        "maximum": high,
        "exclusiveMaximum": high + 1,
    }
    every["multipleOf"] = draw(steps)
    return {keyword: every[keyword] for keyword in draw(st.sets(st.sampled_from(sorted(every)), max_size=4))}


@st.composite
def at_once(draw: st.DrawFn, inner: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {
        **draw(said_of_integers()),
        "type": draw(st.sampled_from(["integer", ["integer", "null"]])),
    }
    if draw(st.booleans()):
        whole["allOf"] = draw(st.lists(inner, min_size=1, max_size=3))
    if draw(st.booleans()):
        whole["anyOf"] = draw(st.lists(inner, min_size=1, max_size=3))
    return whole


integers = st.recursive(said_of_integers(), at_once, max_leaves=6)


def ends_of(schema: Any) -> Iterator[int]:
    if isinstance(schema, dict):
        yield from (value for keyword, value in schema.items() if keyword.endswith("imum"))
    if isinstance(schema, dict | list):
        for each in schema.values() if isinstance(schema, dict) else schema:
            yield from ends_of(each)


def probes(schema: Any) -> list[int]:
    """Numbers about every bound, with multiples of the steps next to them."""
    found = {end + near for end in ends_of(schema) for near in (-1, 0, 1)}
    found |= {end // step * step for end in ends_of(schema) for step in (2, 3, 5, 7, 10, 12, 60, 97, 100, 1000, 1024)}
    return sorted(number for number in found if abs(number) < 10**20)


def compiled_or_never(compiler: GrammarCompiler, schema: Any) -> Callable[[], Matcher] | None:
    """None where the compiler says that nothing is valid."""
    try:
        return compiler.compile("json_schema", json.dumps(schema))
    except GrammarUnsupported as error:
        if "nothing is valid" in str(error) or "Unsatisfiable" in str(error):
            return None
        raise


@given(schema=at_once(integers))
@settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))
def test_bounds_and_steps_at_once_are_exact(guidance: GrammarCompiler, schema: dict[str, Any]) -> None:
    valid = jsonschema.Draft202012Validator(schema).is_valid
    values = [*probes(schema), None]
    make = compiled_or_never(guidance, schema)
    if make is None:
        assert not any(map(valid, values))
        return
    for value in values:
        assert written(make(), json.dumps(value)) == valid(value), value


@given(schemas=st.lists(said_of_integers(), min_size=2, max_size=2), split=st.integers(0, 3))
@settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
def test_members_at_once_are_exact(guidance: GrammarCompiler, schemas: list[dict[str, Any]], split: int) -> None:
    """As a generator writes a class that inherits: a reference, and more about the same members beside it."""
    one, other = ({"type": "integer", **schema} for schema in schemas)
    base = {"type": "object", "properties": {"a": one, "b": {"type": "string"}}, "required": ["a"][: split % 2]}
    more: dict[str, Any] = {"properties": {"a": other, "c": UINT64}, "required": ["c"][: split // 2]}
    schema = {"$ref": "#/$defs/Base", **more, "$defs": {"Base": base}}
    valid = jsonschema.Draft202012Validator(schema).is_valid
    make = compiled_or_never(guidance, schema)
    if make is None:
        assert split % 2
        return
    for number in probes([one, other])[::7]:
        for value in ({"a": number}, {"a": number, "c": 2**64 - 1}, {"a": number, "b": "x", "c": 2**64}, {"c": 0}):
            assert written(make(), json.dumps(value)) == valid(value), value


@pytest.mark.parametrize("optional", [65, 400])
def test_many_properties_that_may_be_left_out_come_first(guidance: GrammarCompiler, optional: int) -> None:
    members: dict[str, Any] = {f"p{i}": UINT64 for i in range(optional)}
    for required in ([], ["last"]):
        schema = {"type": "object", "properties": {**members, "last": INT64}, "required": required}
        make = guidance.compile("json_schema", json.dumps({**schema, "additionalProperties": False}))
        for names in (
            [],
            ["last"],
            ["p0", "last"],
            [f"p{optional - 1}"],
            ["p3", "p40", "p64", "last"],
            [f"p{i}" for i in range(0, optional, 9)] + ["last"],
        ):
            whole = dict.fromkeys(names, LAST)
            assert written(make(), json.dumps(whole)) == ("last" in names or not required), names
        for text in ('{"p1":1,"p0":1,"last":1}', '{"p0":-1,"last":1}', f'{{"p64":{2**64},"last":1}}', '{,"last":1}'):
            assert not written(make(), text), text


OTHER: list[tuple[dict[str, Any], list[Any], list[Any]]] = [
    ({"type": "object", "patternProperties": {"^x-": UINT64}}, [{}, {"x-a": LAST}, {"y": "a"}], [{"x-a": -1}]),
    (
        {"type": "object", "patternProperties": {"^x": UINT64, "z$": INT64}, "additionalProperties": False},
        [{"x": 2**64 - 1}, {"z": FIRST}],
        [{"x": -1}, {"z": 2**63}, {"y": 1}],
    ),
    (
        {"type": "object", "additionalProperties": UINT64, "minProperties": 1},
        [{"a": 1}, {"a": 1, "b": 2}],
        [{}, {"a": -1}],
    ),
    ({"type": "object", "additionalProperties": UINT64, "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    (
        {"properties": {"a": UINT64}, "required": ["a"]},
        [{"a": 2**64 - 1}, 3, 2.5, "x", None, [1], True],
        [{}, {"a": -1}],
    ),
    (
        {"type": ["object", "string", "integer"], "properties": {"a": INT64}, "pattern": "^a", "maximum": 2**60 + 1},
        [{"a": LAST}, "ab", 2**60 + 1],
        [{"a": LAST + 1}, "b", 2**60 + 2, None],
    ),
    ({"minimum": 2**60 + 1, "type": ["integer", "string"], "minLength": 2}, ["ab", 2**60 + 1], ["a", 2**60]),
    ({"type": "array", "items": UINT64, "maxItems": 60_000}, [[], [1] * 50], [[-1]]),
    ({"type": "array", "prefixItems": [INT64, UINT64], "items": False}, [[1], [1, 2]], [[1, -2], [1, 2, 3]]),
    ({"allOf": [{"prefixItems": [INT64]}, {"type": "array", "items": UINT64}]}, [[0], [3, 2**64 - 1]], [[-1], 3]),
    ({"allOf": [{"maximum": LAST}, {"type": "integer"}]}, [LAST], [LAST + 1, "a"]),
    ({"allOf": [{"type": "number", "maximum": LAST}, {"type": "integer"}]}, [LAST], [LAST + 1]),
    (
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1, "multipleOf": 512},
        [2**64 - 512, 0],
        [2**64 - 1, 2**63 + 1],
    ),
    ({"type": "integer", "minimum": 0, "maximum": 7_000_000, "multipleOf": 99_991}, [0, 99_991 * 70], [1, 99_991 * 71]),
    ({"type": "integer", "minimum": 0, "maximum": 10**12, "multipleOf": 86_400}, [86_400 * 10**7], [86_401, 7]),
    ({"type": ["string", "null"], "minimum": 2**62, "multipleOf": 3}, ["a", None], [2**62, 3]),
    ({"type": "integer", "minimum": -(10**30), "multipleOf": 10**9}, [-(10**30), 0, 10**9], [5, -(10**30) - 10**9]),
]


@pytest.mark.parametrize(("schema", "valid", "invalid"), OTHER)
def test_other_forms_about_wide_integers(
    guidance: GrammarCompiler, schema: dict[str, Any], valid: list[Any], invalid: list[Any]
) -> None:
    make = guidance.compile("json_schema", json.dumps(schema))
    for value in (*valid, *invalid):
        assert jsonschema.Draft202012Validator(schema).is_valid(value) == (value in valid)
        assert written(make(), json.dumps(value)) == (value in valid), value


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({**UINT64, "multipleOf": 99_991}, r"'multipleOf' at \$ is not supported with 99991"),
        ({"properties": {"a": UINT64}, "type": "object", "minProperties": 1, "additionalProperties": False}, "minProp"),
        ({**UINT64, "minimum": 2**63 + 1, "maximum": 2**63 + 3, "multipleOf": 7}, "nothing is valid"),
        ({"allOf": [INT64, {"minimum": 2**63}]}, "nothing is valid"),
        ({"allOf": [UINT64, {"type": "string"}]}, "nothing is valid"),
        (
            {"allOf": [{"patternProperties": {"a": UINT64}}, {"properties": {"b": UINT64}}]},
            "'patternProperties' at \\$ is not supported in an allOf",
        ),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(
    guidance: GrammarCompiler, schema: dict[str, Any], words: str
) -> None:
    with pytest.raises(GrammarUnsupported, match=words):
        guidance.check("json_schema", json.dumps(schema))


def test_a_branch_under_which_nothing_is_valid_is_left_out(guidance: GrammarCompiler) -> None:
    small = {"$ref": "#/$defs/Small", "minimum": 2**60}
    schema = {"anyOf": [{"type": "array", "items": small}, UINT64, small], "$defs": {"Small": {**UINT64, "maximum": 9}}}
    make = guidance.compile("json_schema", json.dumps(schema))
    assert written(make(), "[]")
    assert written(make(), str(2**64 - 1))
    assert not written(make(), "[5]")


def test_what_holds_at_once_and_refers_to_itself(guidance: GrammarCompiler) -> None:
    node = {"type": "object", "properties": {"id": UINT64, "next": {"$ref": "#/$defs/Node"}}, "required": ["id"]}
    small = {"type": "object", "properties": {"id": {"multipleOf": 4}, "next": {"$ref": "#/$defs/Small"}}}
    schema = {"allOf": [{"$ref": "#/$defs/Node"}, {"$ref": "#/$defs/Small"}], "$defs": {"Node": node, "Small": small}}
    make = guidance.compile("json_schema", json.dumps(schema))
    assert written(make(), json.dumps({"id": 2**64 - 4, "next": {"id": 4, "next": {"id": 8}}}))
    assert not written(make(), json.dumps({"id": 4, "next": {"id": 4, "next": {"id": 7}}}))
