"""Schemas as pydantic, zod, MCP servers, OpenAI's guide and other generators write them: what is written is valid."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, HttpUrl, Json, SecretStr

from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher
from maxserve.testing.grammar import written


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=0, le=9)


class Dog(BaseModel):
    """Its tag has a default, so that it is not required."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["dog"] = "dog"
    name: Annotated[str, Field(min_length=1, max_length=20, examples=["Rex"], json_schema_extra={"x-order": 1})]


class Tree(BaseModel):
    value: int
    children: list[Tree] = []


class Everything(BaseModel):
    """Fields of all kinds that generators of tools meet."""

    model_config = ConfigDict(title="All of it", json_schema_extra={"example": {"a": 1}})
    a: Annotated[int, Field(gt=0, lt=2**63)]
    b: Annotated[float, Field(ge=-1.5, lt=2)]
    c: Annotated[str, Field(pattern=r"^[a-z]{2,5}$", description="some letters")]
    d: bool | None = None
    e: Color
    f: Level
    g: date
    h: datetime
    i: clock
    j: timedelta
    k: UUID
    l: HttpUrl  # noqa: E741
    m: AnyUrl
    n: SecretStr
    o: bytes
    p: Path
    q: Json[list[int]]
    r: Decimal
    s: dict[str, int]
    t: Annotated[list[str], Field(max_length=3)]
    u: tuple[int, str]
    v: Literal[1, "a", None]
    w: IPv4Address
    x: Annotated[float, Field(multiple_of=0.01, ge=0, le=10)]
    y: set[Color] = set()
    z: Annotated[Cat | Dog, Field(discriminator="kind")]


UUID4 = "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
NUMBER = {"type": "number"}
FLAGS = {
    "type": "object",
    "propertyNames": {"type": "string", "enum": ["a", "b"]},
    "additionalProperties": {"type": "boolean"},
}


def shape(tag: str, *sizes: str) -> dict[str, Any]:
    properties = {"t": {"type": "string", "const": tag}, **dict.fromkeys(sizes, NUMBER)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


# zod 4's toJSONSchema, as it writes objects, records, unions, tuples, never, int and bigint.
ZOD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid", "pattern": UUID4},
        "count": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
        "labels": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "number"}},
        "flags": FLAGS,
        "pair": {"type": "array", "prefixItems": [{"type": "string"}, {"type": "null"}], "items": False, "minItems": 2},
        "never": {"not": {}},
        "shape": {"oneOf": [shape("circle", "r"), shape("box", "w", "h")]},
        "at": {"type": "string", "format": "date-time"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["id", "count", "labels", "flags", "pair", "shape", "at", "maybe"],
    "additionalProperties": False,
}

# Generators of draft 7: tuples as items, definitions, formats of numbers, identifiers that are pointers.
DRAFT_7: dict[str, Any] = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "$ref": "#/definitions/Order",
    "definitions": {
        "Order": {
            "type": "object",
            "properties": {
                "size": {
                    "$id": "#/properties/size",
                    "type": "integer",
                    "format": "int64",
                    "default": 0,
                    "examples": [1],
                },
                "price": {"type": "number", "format": "double", "exclusiveMinimum": 0},
                "point": {"type": "array", "items": [{"type": "number"}, {"type": "number"}], "additionalItems": False},
                "next": {"$ref": "#/definitions/Order"},
                "note": {"type": ["string", "null"], "nullable": True, "maxLength": 2147483647},
            },
            "required": ["size", "price"],
            "additionalProperties": False,
        }
    },
}

# As MCP servers declare their tools: schemars' and Go's integers, free keywords, uniqueItems, deep defaults.
MCP: dict[str, Any] = {
    "$id": "https://example.com/tools/list_issues.json",
    "title": "list_issues",
    "type": "object",
    "properties": {
        "limit": {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 4294967295, "default": 30},
        "offset": {"type": "integer", "format": "uint64", "minimum": 0, "maximum": 18446744073709551615},
        "since": {
            "type": "integer",
            "format": "int64",
            "minimum": -9223372036854775808,
            "maximum": 9223372036854775807,
        },
        "states": {
            "type": "array",
            "items": {"type": "string", "enum": ["open", "closed", "all"]},
            "uniqueItems": True,
        },
        "owner": {"type": "string", "minLength": 1, "x-mcp-header": "owner", "markdownDescription": "**owner**"},
        "path": {"type": "string", "format": "uri-reference"},
        "mail": {"type": "string", "format": "email", "minLength": 6, "maxLength": 64},
        "body": {"type": "string", "contentMediaType": "text/markdown", "format": "textarea"},
        "filter": {"$ref": "#/$defs/filter"},
    },
    "required": ["limit", "owner", "path", "mail"],
    "$defs": {"filter": {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}},
}

# The examples of OpenAI's guide to structured outputs, in their form.
OPENAI: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "steps": {"type": "array", "items": {"$ref": "#/$defs/step"}},
            "final_answer": {"type": "string"},
        },
        "$defs": {
            "step": {
                "type": "object",
                "properties": {"explanation": {"type": "string"}, "output": {"type": "string"}},
                "required": ["explanation", "output"],
                "additionalProperties": False,
            }
        },
        "required": ["steps", "final_answer"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "type": {"type": "string", "enum": ["div", "button", "header"]},
            "label": {"type": "string"},
            "children": {"type": "array", "items": {"$ref": "#"}},
            "attributes": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
                    "required": ["name", "value"],
                    "additionalProperties": False,
                },
            },
        },
        "required": ["type", "label", "children", "attributes"],
        "additionalProperties": False,
    },
    {
        "type": "object",
        "properties": {
            "unit": {"type": ["string", "null"], "enum": ["F", "C", None]},
            "temperature": {"type": "number", "minimum": -130, "maximum": 130},
            "mail": {"type": "string", "format": "email"},
            "tags": {
                "type": "array",
                "items": {"type": "string", "pattern": "^@[a-zA-Z0-9_]+$"},
                "minItems": 1,
                "maxItems": 3,
            },
            "item": {"anyOf": [{"type": "integer", "multipleOf": 5}, {"$ref": "#/$defs/n"}]},
        },
        "$defs": {"n": {"type": "null"}},
        "required": ["unit", "temperature", "mail", "tags", "item"],
        "additionalProperties": False,
    },
]

# TypeBox names its recursive types; a document within it, an anchor.
NAMED: dict[str, Any] = {
    "$id": "Node",
    "type": "object",
    "properties": {"id": {"$ref": "https://e.com/id.json"}, "next": {"anyOf": [{"$ref": "Node"}, {"$ref": "#none"}]}},
    "required": ["id"],
    "$defs": {"i": {"$id": "https://e.com/id.json", "type": "integer"}, "none": {"$anchor": "none", "type": "null"}},
}

SCHEMAS: dict[str, Any] = {
    "everything": Everything.model_json_schema(),
    "serialized": Everything.model_json_schema(mode="serialization"),
    "tree": Tree.model_json_schema(),
    "zod": ZOD,
    "draft 7": DRAFT_7,
    "mcp": MCP,
    **{f"openai {i}": schema for i, schema in enumerate(OPENAI)},
    "named": NAMED,
    "either": {
        "type": "object",
        "properties": {"url": {"type": "string", "maxLength": 9}, "id": {"type": "integer"}, "n": {"type": "null"}},
        "oneOf": [{"required": ["url"]}, {"required": ["id"]}],
        "additionalProperties": False,
    },
    "any": {},
    "true": {"type": "object", "properties": {"a": True, "b": {}}, "required": ["a"]},
}


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_written_is_valid(
    guidance: GrammarCompiler, name: str, random_text: Callable[[Matcher, int], str | None]
) -> None:
    schema = SCHEMAS[name]
    make = guidance.compile("json_schema", json.dumps(schema))
    validator, texts = validator_for(schema, default=Draft202012Validator)(schema), 0
    for seed in range(12):
        text = random_text(make(), seed)
        if text is not None:
            texts += 1
            assert not list(validator.iter_errors(json.loads(text))), text
    assert texts > 2, "hardly any text came to its end"


def field(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


REGULAR: dict[str, Any] = {
    "openai 0": OPENAI[0],
    "formats": Everything.model_json_schema()["properties"]["h"],
    "tags": {"type": "array", "items": OPENAI[2]["properties"]["tags"]["items"], "maxItems": 3},
    "int64": field(MCP["properties"]["since"]),
    "uint64": field(MCP["properties"]["offset"]),
    "states": MCP["properties"]["states"],
    "pair": ZOD["properties"]["pair"],
    "pets": {"oneOf": [Cat.model_json_schema(), Dog.model_json_schema()], "discriminator": {"propertyName": "kind"}},
}


@pytest.mark.parametrize("name", REGULAR)
def test_automata_write_valid_texts(
    automata: GrammarCompiler, name: str, random_text: Callable[[Matcher, int], str | None]
) -> None:
    schema = REGULAR[name]
    make = automata.compile("json_schema", json.dumps(schema))
    texts = [text for seed in range(6) if (text := random_text(make(), seed)) is not None]
    assert texts
    for text in texts:
        assert Draft202012Validator(schema).is_valid(json.loads(text)), text


def test_automata_hold_64_bits_exactly(automata: GrammarCompiler) -> None:
    for name, valid, invalid in (
        ("int64", ["9223372036854775807", "-9223372036854775808"], ["9223372036854775808", "-9223372036854775809"]),
        ("uint64", ["0", "18446744073709551615"], ["-1", "18446744073709551616"]),
    ):
        make = automata.compile("json_schema", json.dumps(REGULAR[name]))
        for text in (*valid, *invalid):
            assert written(make(), f'{{"a":{text}}}') == (text in valid), text


VALID = [
    ("tree", {"value": 1, "children": [{"value": 2}]}),
    ("named", {"id": 1, "next": {"id": 2, "next": None}}),
    ("draft 7", {"size": 1, "price": 0.5, "point": [1, 2], "next": {"size": 2, "price": 1}, "note": None}),
    ("openai 1", {"type": "div", "label": "x", "children": [], "attributes": [{"name": "a", "value": "b"}]}),
    ("openai 2", {"unit": None, "temperature": -0.5, "mail": "a@b.org", "tags": ["@a"], "item": -15}),
    (
        "mcp",
        {
            "limit": 4294967295,
            "since": 9223372036854775807,
            "states": ["all", "open"],
            "owner": "o",
            "path": "/a",
            "mail": "ab@c.org",
        },
    ),
]


@pytest.mark.parametrize(("name", "value"), VALID)
def test_what_is_valid_can_be_written(guidance: GrammarCompiler, name: str, value: Any) -> None:
    text = json.dumps(value, separators=(",", ":"))
    assert written(guidance.compile("json_schema", json.dumps(SCHEMAS[name]))(), text)
