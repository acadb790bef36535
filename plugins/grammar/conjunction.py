"""One schema for several that hold at once (`allOf`, and keywords beside `$ref` or `anyOf`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from math import gcd, inf, lcm
from typing import Any

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar.numbers import decimal_of

Schema = dict[str, Any]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
OBJECTS = ("properties", "patternProperties", "additionalProperties")
ARRAYS = ("prefixItems", "items")
_COUNTS = {
    kind: (f"min{name}", f"max{name}")
    for kind, name in (("string", "Length"), ("array", "Items"), ("object", "Properties"))
}


def conjunction(schema: Schema, resolve: Callable[[str], Any], path: str) -> Any:
    """A schema without `$ref` and `allOf`, and with `anyOf` as its only keyword or not at all; False for never.

    GrammarUnsupported with keyword and path for what cannot be expressed by one schema.
    """
    parts = list(_parts(schema, resolve, set()))
    if any(part is False for part in parts):
        return False
    choices = [part for part in parts if "anyOf" in part]
    if choices:
        others = [part for part in parts if part is not choices[0]]
        return {"anyOf": [all_of([branch, *others]) for branch in choices[0]["anyOf"]]}
    made: Schema = {}
    for part in parts:
        made = _both(made, part, path)
        if made.get("type", "any") == [] or _no_count(made):
            return False
    return made


def _no_count(schema: Schema) -> bool:
    low, high = _COUNTS.get(str(schema.get("type")), ("", ""))
    return bool(schema.get(low, 0) > schema.get(high, inf))


def all_of(schemas: Sequence[Any]) -> Any:
    """The same as a schema, in the shortest way."""
    if any(schema is False for schema in schemas):
        return False
    distinct = {key_of(schema): schema for schema in schemas if schema is not True and schema != {}}
    return {"allOf": list(distinct.values())} if len(distinct) > 1 else next(iter(distinct.values()), True)


def key_of(value: Any) -> str:
    """A text that is the same for what JSON Schema calls equal."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_plain, value))
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return int(value) if isinstance(value, float) and value == int(value) else value


def _parts(schema: Any, resolve: Callable[[str], Any], seen: set[str]) -> Iterator[Any]:
    """What is required of the same value, each `anyOf` alone."""
    if not isinstance(schema, dict):
        yield from () if schema is True else (False,)
        return
    if "$ref" in schema and schema["$ref"] not in seen:
        seen.add(schema["$ref"])
        yield from _parts(resolve(schema["$ref"]), resolve, seen)
    for each in schema.get("allOf", ()):
        yield from _parts(each, resolve, seen)
    if "anyOf" in schema:
        yield {"anyOf": schema["anyOf"]}
    if rest := {keyword: value for keyword, value in schema.items() if keyword not in ("$ref", "allOf", "anyOf")}:
        yield rest


# --- two schemas of plain keywords -----------------------------------------------------------------------------


def _both(one: Schema, other: Schema, path: str) -> Schema:
    made = {**one, **other}
    for keyword in one.keys() & other.keys():
        if keyword in _MERGED:
            made[keyword] = _MERGED[keyword](one[keyword], other[keyword])
        elif keyword not in (*OBJECTS, *ARRAYS, "const") and key_of(one[keyword]) != key_of(other[keyword]):
            raise _cannot(keyword, path)
    if {"const", "enum"} & one.keys() and {"const", "enum"} & other.keys():
        made["enum"] = _common(_values(one), _values(other))
        made.pop("const", None)
    if set(OBJECTS) & one.keys() and set(OBJECTS) & other.keys():
        made |= _members(one, other, path)
    if set(ARRAYS) & one.keys() and set(ARRAYS) & other.keys():
        made |= _items(one, other)
    return made


def _members(one: Schema, other: Schema, path: str) -> Schema:
    mine, theirs = one.get("properties", {}), other.get("properties", {})
    if {"patternProperties"} & {*one, *other}:
        raise _cannot("patternProperties", path)
    names = dict.fromkeys((*mine, *theirs))
    made = {name: all_of([_member(one, name), _member(other, name)]) for name in names}
    others = all_of([one.get("additionalProperties", True), other.get("additionalProperties", True)])
    return {"properties": made, "additionalProperties": others}


def _member(schema: Schema, name: str) -> Any:
    return schema.get("properties", {}).get(name, schema.get("additionalProperties", True))


def _items(one: Schema, other: Schema) -> Schema:
    size = max(len(schema.get("prefixItems", ())) for schema in (one, other))
    first = [all_of([_item(one, index), _item(other, index)]) for index in range(size)]
    rest = all_of([one.get("items", True), other.get("items", True)])
    return {**({"prefixItems": first} if first else {}), "items": rest}


def _item(schema: Schema, index: int) -> Any:
    first = schema.get("prefixItems", ())
    return first[index] if index < len(first) else schema.get("items", True)


def _values(schema: Schema) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema["enum"]


def _common(one: list[Any], other: list[Any]) -> list[Any]:
    known = set(map(key_of, other))
    return [value for value in one if key_of(value) in known]


def _types(one: Any, other: Any) -> Any:
    wanted, known = ({kind} if isinstance(kind, str) else set(kind) for kind in (one, other))
    common = wanted & known
    numbers = {"integer", "number"}
    if wanted & numbers and known & numbers and "number" not in common:
        common.add("integer")
    found = [kind for kind in TYPES if kind in common]
    return found[0] if len(found) == 1 else found


def _steps(one: Any, other: Any) -> Any:
    first, second = Fraction(decimal_of(one) or 1), Fraction(decimal_of(other) or 1)
    found = Fraction(lcm(first.numerator, second.numerator), gcd(first.denominator, second.denominator))
    return int(found) if found.denominator == 1 else float(found)


_MERGED: Mapping[str, Callable[[Any, Any], Any]] = {
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
    "type": _types,
    "multipleOf": _steps,
    "enum": _common,
    "required": lambda one, other: list(dict.fromkeys((*one, *other))),
}


def _cannot(keyword: str, path: str) -> GrammarUnsupported:
    return GrammarUnsupported(
        f"keyword {keyword!r} at {path} is not supported in an allOf with another one, beside integers beyond 2**53",
        path=path,
    )
