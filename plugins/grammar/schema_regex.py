"""A schema as a regular expression, as far as it is one: of the words of schema.py, those that automata can hold.

The texts are a part of what is valid: declared properties only, in their order, with at most a blank after a comma or
colon, numbers of bounded length.
"""

from __future__ import annotations

import json
import re
from typing import Any

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.numbers import Bounds

COMMA, COLON = ",[ ]?", ":[ ]?"
INTEGER = "(?:-?[1-9][0-9]{0,14}|0)"
NUMBER = r"(?:-?(?:0|[1-9][0-9]{0,14})\.[0-9]{1,8}|-?[1-9][0-9]{0,14}|0)"
# A character of a string: no control, quote or backslash; those as escapes.
PLAIN = r'[^"\\\x00-\x1f\x7f]'
CHAR = r'(?:[^"\\\x00-\x1f\x7f]|\\["\\/bfnrt])'
MOST_CHARS = 128  # of a string or items of a list: each is a state of its own, times the vocabulary
DEEPEST = 12
_ATOM = re.compile(r"\[[^\]]*\]|\\x([0-9a-f]{2})")  # a set, or an ASCII character that is no letter or digit

BOUNDS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
KNOWN = {
    "object": {"type", "properties", "required", "additionalProperties"},
    "array": {"type", "items", "prefixItems", "minItems", "maxItems"},
    "string": {"type", "minLength", "maxLength", "pattern"},
    "integer": {"type", *BOUNDS},
    "number": {"type", *BOUNDS},
    "boolean": {"type"},
    "null": {"type"},
}


def schema_regex(schema: dict[str, Any]) -> str:
    """GrammarUnsupported with keyword and path for what is no regular language, or too large for an automaton."""
    return _Writer(schema.get("$defs", {})).node({k: v for k, v in schema.items() if k != "$defs"}, "$", 0)


class _Writer:
    def __init__(self, definitions: dict[str, Any]) -> None:
        self._definitions = definitions

    def node(self, schema: Any, path: str, depth: int) -> str:
        if depth > DEEPEST:
            raise _cannot("nesting", path, f"deeper than {DEEPEST}, or recursive")
        if not isinstance(schema, dict) or not schema:
            raise _cannot("type", path, "left out")
        for keyword in ("$ref", "anyOf", "enum", "const"):
            if keyword in schema:
                return self._alone(schema, keyword, path, depth)
        kind = schema.get("type")
        if isinstance(kind, list):
            if len(schema) > 1:
                raise _cannot("type", path, "with several types beside other keywords")
            return _either(self.node({"type": one}, path, depth) for one in kind)
        if kind is None:
            raise _cannot("type", path, "left out")
        for keyword in schema:
            if keyword not in KNOWN[kind]:
                raise _cannot(keyword, path)
        return getattr(self, f"_{kind}")(schema, path, depth)  # type: ignore[no-any-return]

    def _alone(self, schema: dict[str, Any], keyword: str, path: str, depth: int) -> str:
        """A keyword that says everything; `type` beside a list of values only picks among them."""
        others = set(schema) - {keyword}
        if keyword in ("enum", "const"):
            if others - {"type"}:
                raise _cannot(keyword, path, f"beside {', '.join(sorted(others))}")
            values = schema["enum"] if keyword == "enum" else [schema["const"]]
            return _values(values, schema.get("type"), path)
        if others:
            raise _cannot(keyword, path, f"beside {', '.join(sorted(others))}")
        if keyword == "anyOf":
            return _either(self.node(s, f"{path}.anyOf[{i}]", depth + 1) for i, s in enumerate(schema["anyOf"]))
        name = schema["$ref"].rpartition("/")[2]
        if schema["$ref"] == "#":
            raise _cannot("$ref", path, "to the whole: it is recursive")
        return self.node(self._definitions[name], path, depth + 1)

    def _object(self, schema: dict[str, Any], path: str, depth: int) -> str:
        if schema.get("additionalProperties", True) not in (True, False):
            raise _cannot("additionalProperties", path, "with a schema")
        properties, required = schema.get("properties", {}), set(schema.get("required", ()))
        if required - set(properties):
            raise _cannot("required", path, "with names that are not in properties")
        if not properties and schema.get("additionalProperties", True):
            raise _cannot("properties", path, "left out")
        members = []
        for name, one in properties.items():
            if one is False and name not in required:
                continue
            key = regex.literal(json.dumps(name, ensure_ascii=False))
            members.append((f"{key}{COLON}{self.node(one, f'{path}.{name}', depth + 1)}", name in required))
        return r"\{" + _members(members) + r"\}"

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> str:
        low, high = schema.get("minItems", 0), schema.get("maxItems")
        if max(low, high or 0) > MOST_CHARS:
            raise _cannot("maxItems", path, f"above {MOST_CHARS}")
        first = schema.get("prefixItems", [])[: high if high is not None else None]
        left_low, left_high = max(0, low - len(first)), None if high is None else high - len(first)
        rest = ""
        if left_high != 0 and (not first or left_low or isinstance(schema.get("items"), dict)):
            item = self.node(schema.get("items"), f"{path}.items", depth + 1)
            if not first:
                return _repeated(item, left_low, left_high)
            rest = f"(?:{COMMA}{item}){{{left_low},{'' if left_high is None else left_high}}}"
        return self._tuple(first, rest, low, path, depth)

    def _tuple(self, first: list[Any], rest: str, low: int, path: str, depth: int) -> str:
        """Items each of their own schema, `low` of them at least, and `rest` after the last of them."""
        for index in reversed(range(len(first))):
            item = self.node(first[index], f"{path}.prefixItems[{index}]", depth + 1)
            text = f"{COMMA if index else ''}{item}{rest}"
            rest = text if index < low else f"(?:{text})?"
        return rf"\[{rest}\]"

    def _string(self, schema: dict[str, Any], path: str, depth: int) -> str:
        low, high = schema.get("minLength", 0), schema.get("maxLength")
        if max(low, high or 0) > MOST_CHARS:
            raise _cannot("maxLength", path, f"above {MOST_CHARS}")
        if "pattern" not in schema:
            return f'"{CHAR}{{{low},{"" if high is None else high}}}"'
        if low or high is not None:
            raise _cannot("pattern", path, "beside a length")
        return f'"{within_string(schema["pattern"])}"'

    def _integer(self, schema: dict[str, Any], path: str, depth: int) -> str:
        return Bounds.of(schema).expression() if BOUNDS & schema.keys() else INTEGER

    def _number(self, schema: dict[str, Any], path: str, depth: int) -> str:
        return Bounds.of(schema).expression() if BOUNDS & schema.keys() else NUMBER

    def _boolean(self, schema: dict[str, Any], path: str, depth: int) -> str:
        return "(?:true|false)"

    def _null(self, schema: dict[str, Any], path: str, depth: int) -> str:
        return "null"


def _repeated(item: str, low: int, high: int | None) -> str:
    some = rf"{item}(?:{COMMA}{item}){{{max(0, low - 1)},{'' if high is None else high - 1}}}"
    return rf"\[{some}\]" if low else rf"\[(?:{some})?\]"


def within_string(pattern: str) -> str:
    """An expression of our own notation (regex.py) for the inside of a string: nothing in it needs to be escaped,
    but for single characters, which are.
    """
    start, end = ("" if pattern.startswith("^") else f"{CHAR}*"), ("" if pattern.endswith("$") else f"{CHAR}*")
    return start + _ATOM.sub(_atom_in_string, pattern.removeprefix("^").removesuffix("$")) + end


def _atom_in_string(atom: re.Match[str]) -> str:
    if atom[1] is None:
        return f"[{atom[0]}&&{PLAIN}]"
    return f"(?:{regex.literal(json.dumps(chr(int(atom[1], 16)))[1:-1])})"


def _members(members: list[tuple[str, bool]]) -> str:
    """Properties in their order, commas only between those that are there."""
    rest = after = ""  # what may follow when nothing came before, and when something did
    for member, needed in reversed(members):
        follows = f"{COMMA}{member}{after}"
        rest = f"{member}{after}" if needed else f"(?:{member}{after}|{rest})" if rest else f"(?:{member}{after})?"
        after = follows if needed else f"(?:{COMMA}{member})?{after}"
    return rest


def _values(values: list[Any], types: Any, path: str) -> str:
    wanted = None if types is None else {types} if isinstance(types, str) else set(types)
    fitting = [value for value in values if wanted is None or types_of(value) & wanted]
    if not fitting:
        raise GrammarUnsupported(f"nothing is valid: no value is of the type at {path}", path=path, invalid=True)
    return _either(regex.literal(json.dumps(v, ensure_ascii=False, separators=(",", ":"))) for v in fitting)


def types_of(value: Any) -> set[str]:
    """The words of JSON Schema for the type of a value."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if value == int(value) else {"number"}
    names: dict[type, str] = {str: "string", list: "array", dict: "object"}
    return {names.get(type(value), "null")}


def _either(texts: Any) -> str:
    return f"(?:{'|'.join(texts)})"


def _cannot(keyword: str, path: str, detail: str = "") -> GrammarUnsupported:
    return GrammarUnsupported(
        f"keyword {keyword!r} at {path} {detail + ' ' if detail else ''}is not supported by outlines", path=path
    )
