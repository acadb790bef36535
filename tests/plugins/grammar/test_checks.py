"""Both back ends pass the checks that others pass, on the same cases."""

from __future__ import annotations

import json
from typing import ClassVar

from maxserve.testing import GrammarBackendChecks

PERSON = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", None, {"q": [1]}]}, "c": {"type": "boolean"}},
    "required": ["b"],
    "additionalProperties": False,
}
LIST = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 2}, "minItems": 1, "maxItems": 2}
TAGGED = {
    "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
    "discriminator": {"propertyName": "k"},
    "$defs": {
        kind: {"type": "object", "properties": {"k": {"const": kind}}, "additionalProperties": False}
        for kind in ("cat", "dog")
    },
}

SHARED = [
    (
        "json_schema",
        json.dumps(PERSON),
        ['{"b":"x"}', '{"a":-12,"b":null}', '{"a": 1, "b": {"q":[1]}, "c": true}'],
        ["{}", '{"a":1}', '{"b":"y"}', '{"a":1.5,"b":"x"}', '{"b":"x","z":1}', '{"b":"x"', '{"a":01,"b":"x"}'],
    ),
    ("json_schema", json.dumps(LIST), ['["é"]', '["ab","\\n"]'], ["[]", '[""]', '["abc"]', '["a","a","a"]', '["\n"]']),
    ("json_schema", '{"type": "integer", "minimum": 3, "exclusiveMaximum": 11}', ["3", "10"], ["2", "11", "1"]),
    ("json_schema", '{"type": "number", "minimum": -1, "maximum": 0.5}', ["-0.9", "0", "0.5"], ["0.51", "-1.1", "1"]),
    ("json_schema", '{"type": "integer", "format": "int32", "x-order": 1}', ["3"], ["3.5"]),
    ("json_schema", json.dumps(TAGGED), ['{"k":"cat"}', '{"k":"dog"}'], ["{}", '{"k":"cow"}']),
    ("regex", r"^[+-]?[0-9]{1,3}(\.[0-9]{1,2})?$", ["645", "-6.45", "0"], ["6453", "", "6.", "+", "1.234", "٣"]),
    ("regex", r"\d\D\w\W?", ["1xy", "1é_ "], ["٣xy", "11y", "1x-"]),
    ("choice", json.dumps(["red", 'a"b\\', "日本"], ensure_ascii=False), ["red", 'a"b\\', "日本"], ["re", "", "日"]),
]
REFUSED = [
    ("regex", "("),
    ("regex", "(?=a)b"),
    ("regex", r"(a)\1"),
    ("regex", "a^b"),
    ("regex", r"\bfoo"),
    ("regex", "(?i)a"),
    ("regex", "(a{1000}){1000}"),
    ("json_schema", "false"),
    ("json_schema", '{"enum": []}'),
    ("json_schema", '{"type": "string", "minLength": 5, "maxLength": 2}'),
    ("json_schema", '{"type": "object", "not": {}}'),
    ("json_schema", '{"type": "array", "uniqueItems": true}'),
    ("json_schema", '{"type": "number", "multipleOf": 1e-12}'),
    ("json_schema", '{"$ref": "#"}'),
    ("json_schema", '{"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}'),
    ("json_schema", '{"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}'),
]


class TestLLGuidance(GrammarBackendChecks):
    backend = "llguidance"
    cases: ClassVar = [
        *SHARED,
        ("grammar", 'start: "(" start ")" | "x"', ["x", "((x))"], ["(x", "", "(x))"]),
        ("grammar", 'root ::= "a" root | "b"', ["b", "aab"], ["a", ""]),
        ("json_object", "{}", ["{}", '{"a":[1,{"b":null}]}'], ["[]", "1", ""]),
        ("json_schema", '{"type": "object", "properties": {"n": {"$ref": "#"}}}', ['{"n":{"n":{}}}'], ['{"n":1}']),
        ("json_schema", '{"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 1}}}', ["1"], ["2"]),
    ]
    refused: ClassVar = [*REFUSED, ("grammar", "start: absent"), ("grammar", "::=")]


class TestOutlines(GrammarBackendChecks):
    backend = "outlines"
    cases: ClassVar = SHARED
    refused: ClassVar = [
        *REFUSED,
        ("json_object", "{}"),
        ("regex", "(a|b)*a(a|b){30}c"),  # 2^30 states
        ("json_schema", '{"type": "object", "properties": {"n": {"$ref": "#"}}}'),
        ("json_schema", '{"type": "integer", "multipleOf": 3}'),
        ("json_schema", '{"type": "string", "maxLength": 100000}'),
    ]
