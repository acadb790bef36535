"""The types of a call's arguments, by the JSON Schema of its tool."""

from __future__ import annotations

import ast
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any
from urllib.parse import unquote

EVERY_TYPE = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})

_SPELLINGS: Mapping[str, tuple[str, ...]] = {  # what clients write instead of JSON Schema's words
    "string": ("str", "text", "enum", "date", "datetime"),
    "integer": ("int", "long", "short", "int32", "int64", "uint"),
    "number": ("float", "double", "decimal", "num"),
    "boolean": ("bool",),
    "array": ("list", "tuple", "set"),
    "object": ("dict", "map", "mapping", "struct"),
    "null": ("none", "nonetype"),
}
_TYPES = {word: kind for kind, words in _SPELLINGS.items() for word in (kind, *words)}
_IMPLIED = {"properties": "object", "additionalProperties": "object", "items": "array", "prefixItems": "array"}
_DEEPEST = 64  # of what lies within each other: references and combinations, and values
_LONGEST_LITERAL = 1 << 18  # characters of Python that are parsed
_UNREADABLE = object()


class ArgumentType:
    """A part of a tool's schema, asked only which JSON types it admits and what its members are.

    A schema that says nothing, or that refers to what is not there, admits everything.
    """

    def __init__(self, schema: Any, document: _Document | None = None) -> None:
        self._schema = schema
        self._document = document or _Document(schema)

    @cached_property
    def types(self) -> frozenset[str]:
        """The types it admits. A number admits whole ones."""
        return self._document.types(self._schema)

    @cached_property
    def typed(self) -> bool:
        """Whether the schema says anything about the type."""
        return self.types != EVERY_TYPE

    @cached_property
    def listed(self) -> tuple[Any, ...]:
        """The values that `const` or `enum` list, of all branches; none where they are not listed."""
        return tuple(value for part in self._parts for value in _listed(part))

    def member(self, key: str) -> ArgumentType:
        """The type of an object's member. Where several branches have it, each of theirs is admitted."""
        named = [p["properties"][key] for p in self._parts if key in _mapping(p.get("properties"))]
        others = [part["additionalProperties"] for part in self._parts if "additionalProperties" in part]
        return self._any_of(named or others)

    def item(self, index: int) -> ArgumentType:
        """The type of an array's item."""
        return self._any_of([_item(part, index) for part in self._parts if "items" in part or "prefixItems" in part])

    @cached_property
    def _parts(self) -> list[Mapping[str, Any]]:
        return self._document.parts(self._schema)

    def _any_of(self, schemas: Sequence[Any]) -> ArgumentType:
        return ArgumentType(schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}, self._document)

    def of_text(self, text: str) -> Any:
        """The value of an argument that a model wrote as bare text, between tags.

        Where the schema names types other than string, JSON counts, and Python's spelling where no string is admitted;
        where it names none, JSON counts for arrays and objects. Everything else is the text itself.
        """
        if text.strip() in self._listed_strings:
            return text if text in self._listed_strings else text.strip()
        value = _json(text)
        if not isinstance(value, str) and self._takes(value):
            return self.conformed(value)
        if "string" in self.types:
            return value if isinstance(value, str) and value in self._listed_strings else text
        return self._unquoted(text, value)

    def conformed(self, value: Any) -> Any:
        """`value` with strings read as what they spell wherever no string is admitted, and scalars as strings."""
        if isinstance(value, str):
            return value if "string" in self.types else self._unquoted(value, _json(value))
        if isinstance(value, list):
            return [self.item(index).conformed(item) for index, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self.member(key).conformed(item) for key, item in value.items()}
        if isinstance(value, float) and value.is_integer() and "number" not in self.types and "integer" in self.types:
            return int(value)
        only_strings = "string" in self.types and self.types <= {"string", "null"}
        return json.dumps(value) if only_strings and isinstance(value, bool | int | float) else value

    @cached_property
    def _listed_strings(self) -> frozenset[str]:
        return frozenset(value for value in self.listed if isinstance(value, str))

    def _unquoted(self, text: str, value: Any) -> Any:
        """What a text spells that cannot be a string; the text itself where it spells nothing that is admitted."""
        if value is _UNREADABLE:
            value = _python(text)
        if isinstance(value, str) and value != text:  # JSON within JSON
            return self.conformed(value)
        return self.conformed(value) if not isinstance(value, str) and self._admits(value) else text

    def _takes(self, value: Any) -> bool:
        return self._admits(value) if self.typed else isinstance(value, list | dict)

    def _admits(self, value: Any) -> bool:
        return not self.types.isdisjoint({"integer", "number"} if _whole(value) else {_type_of(value)})


class _Document:
    """A whole schema, in which references are found; each part of it is looked at once."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._types: dict[int, tuple[Any, frozenset[str]]] = {}  # with the part itself, which so keeps its id

    def types(self, schema: Any, depth: int = 0) -> frozenset[str]:
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            return EVERY_TYPE
        if id(schema) not in self._types:
            self._types[id(schema)] = schema, EVERY_TYPE  # for a reference that leads back here
            self._types[id(schema)] = schema, self._admitted(schema, depth + 1)
        return self._types[id(schema)][1]

    def _admitted(self, schema: Mapping[str, Any], depth: int) -> frozenset[str]:
        types = _said(schema)
        if "$ref" in schema:
            types &= self.types(self._referred(schema["$ref"]), depth)
        for name in ("anyOf", "oneOf"):
            if branches := _schemas(schema.get(name)):
                types &= frozenset[str]().union(*(self.types(branch, depth) for branch in branches))
        for part in _schemas(schema.get("allOf")):
            types &= self.types(part, depth)
        if schema.get("nullable") is True:  # OpenAPI's word
            types |= {"null"}
        return types or EVERY_TYPE

    def parts(self, schema: Any) -> list[Mapping[str, Any]]:
        """`schema` and everything it refers to or combines, itself first."""
        found: dict[int, Mapping[str, Any]] = {}
        waiting = [schema]
        while waiting:
            part = waiting.pop()
            if not isinstance(part, Mapping) or id(part) in found:
                continue
            found[id(part)] = part
            waiting += [branch for name in ("allOf", "anyOf", "oneOf") for branch in _schemas(part.get(name))][::-1]
            if "$ref" in part:
                waiting.append(self._referred(part["$ref"]))
        return list(found.values())

    def _referred(self, reference: Any) -> Any:
        """What a reference means: a JSON pointer into the schema, after the schema's `$id` if that is given."""
        if not isinstance(reference, str):
            return True
        address, _, pointer = reference.partition("#")
        if address and address != str(_mapping(self._root).get("$id", "")).partition("#")[0]:
            return True
        found = self._root
        for token in unquote(pointer).split("/")[1:]:
            found = _within(found, token.replace("~1", "/").replace("~0", "~"))
        return found


def _said(schema: Mapping[str, Any]) -> frozenset[str]:
    """What the schema's own keywords admit."""
    value = schema.get("type")
    words = [value] if isinstance(value, str) else _schemas(value)
    types = frozenset(_TYPES[str(word).lower()] for word in words if str(word).lower() in _TYPES) or EVERY_TYPE
    if "number" in types:
        types |= {"integer"}
    if listed := _listed(schema):
        types &= frozenset(_type_of(value) for value in listed)
    elif not words:
        types = frozenset(kind for keyword, kind in _IMPLIED.items() if keyword in schema) or types
    return types


def _listed(schema: Mapping[str, Any]) -> Sequence[Any]:
    return (schema["const"],) if "const" in schema else _schemas(schema.get("enum"))


def _item(schema: Mapping[str, Any], index: int) -> Any:
    for keyword in ("prefixItems", "items"):  # `items` as a list is what prefixItems once were
        found = _schemas(schema.get(keyword))
        if index < len(found):
            return found[index]
    rest = schema.get("items", True)
    return schema.get("additionalItems", True) if isinstance(rest, list) else rest


def _schemas(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _within(value: Any, token: str) -> Any:
    if isinstance(value, Mapping):
        return value.get(token, True)
    if isinstance(value, list) and token.isdigit() and int(token) < len(value):
        return value[int(token)]
    return True


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    kinds = ((str, "string"), (int, "integer"), (float, "number"), (list, "array"), (dict, "object"))
    return next((kind for each, kind in kinds if isinstance(value, each)), "")


def _whole(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _json(text: str) -> Any:
    if text.count("[") + text.count("{") > _DEEPEST and _depth(text) > _DEEPEST:
        return _UNREADABLE
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return _UNREADABLE


def _depth(text: str) -> int:
    """How deep brackets lie within each other at most, those in strings included."""
    steps = (1 if char in "[{" else -1 for char in text if char in "[]{}")
    return max(accumulate(steps), default=0)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number


def _python(text: str) -> Any:
    """The value of a Python literal, and of JSON's words among them; never run, and only what JSON has too."""
    if len(text) > _LONGEST_LITERAL:
        return _UNREADABLE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return literal(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError, MemoryError):
        return _UNREADABLE


_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}  # that models write for Python's own


def literal(node: ast.expr) -> Any:
    """The value of a literal that JSON has as well; ValueError for anything else."""
    match node:
        case ast.Constant(value=str() | bool() | None):
            return node.value
        case ast.Constant(value=int() | float() as number) if math.isfinite(number):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if math.isfinite(number):
            return -number
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return [literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): literal(value) for key, value in zip(keys, values, strict=True)}
    raise ValueError("no literal that JSON has")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("keys of JSON objects are strings")
