"""Schemas with integers wider than a float as Lark: digits by expressions of ours, the rest by llguidance's own reader.

llguidance keeps bounds and constants as 64-bit floats. Only schemas on the way to such a number are written here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.lowering import BOUNDS, EXACT, held, lowered
from maxserve.plugins.grammar.numbers import Bounds
from maxserve.plugins.grammar.references import ROOT
from maxserve.plugins.grammar.rules import check_rules
from maxserve.plugins.grammar.schema_regex import COLON, COMMA, KNOWN, PLAIN, types_of

Schema = dict[str, Any]

DIGITS = 20  # where there is no bound: as many as the largest number of 64 bits has
MOST_OPTIONAL = 64  # properties that may be left out before the first that may not
MOST_ITEMS = 1_000
LONGEST = 1024**2  # characters


class _NotWritten(Exception):
    """A form of schemas that is left to llguidance's own reader."""


def wide_grammar(schema: Schema, wording: Mapping[str, Any]) -> str | None:
    """Lark for a schema as the reader of schemas writes it; None where no number needs it, or it is left as it is."""
    definitions = schema.get("$defs", {})
    root = {keyword: value for keyword, value in schema.items() if keyword != "$defs"}
    found = _Wide(root, definitions)
    if not found.within(root):
        return None
    try:
        text = _Writer(root, definitions, found, wording).run()
        check_rules(text)
    except (_NotWritten, GrammarUnsupported):
        return None
    return text if len(text) <= LONGEST else None


# --- which schemas ---------------------------------------------------------------------------------------------


class _Wide:
    """Which schemas hold a number that no float holds, here or where they refer to."""

    def __init__(self, root: Schema, definitions: Mapping[str, Any]) -> None:
        targets = {f"#/$defs/{name}": one for name, one in definitions.items()} | {ROOT: root}
        users: dict[str, set[str]] = {}
        waiting = []
        for name, target in targets.items():
            for one in _schemas(target):
                if _is_wide(one):
                    waiting.append(name)
                users.setdefault(one.get("$ref", ""), set()).add(name)
        self._targets: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name not in self._targets:
                self._targets.add(name)
                waiting.extend(users.get(name, ()))
        self._known: dict[int, bool] = {}

    def within(self, schema: Any) -> bool:
        if not isinstance(schema, dict):
            return False
        if id(schema) not in self._known:
            here = _is_wide(schema) or schema.get("$ref") in self._targets
            self._known[id(schema)] = here or any(map(self.within, _children(schema)))
        return self._known[id(schema)]


def _is_wide(schema: Schema) -> bool:
    if not all(map(held, [*schema.get("enum", ()), schema.get("const")])):
        return True
    ends = (Bounds.of(schema).low, Bounds.of(schema).high) if schema.keys() & set(BOUNDS) else ()
    return "integer" in _types(schema) and any(end is not None and abs(end) > EXACT for end in ends)


def _types(schema: Schema) -> list[str]:
    found = schema.get("type", [])
    return [found] if isinstance(found, str) else list(found)


def _children(schema: Schema) -> Iterator[Any]:
    for keyword in ("allOf", "anyOf", "prefixItems"):
        yield from schema.get(keyword, ())
    for keyword in ("properties", "patternProperties"):
        yield from schema.get(keyword, {}).values()
    for keyword in ("items", "additionalProperties"):
        yield schema.get(keyword)


def _schemas(root: Any) -> Iterator[Schema]:
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield one
            waiting.extend(_children(one))


# --- as Lark ---------------------------------------------------------------------------------------------------


class _Writer:
    """Gives each schema a rule, equal ones the same."""

    def __init__(self, root: Schema, definitions: Mapping[str, Any], wide: _Wide, wording: Mapping[str, Any]) -> None:
        self._root = root
        self._definitions = definitions
        self._wide = wide
        self._wording = dict(wording)
        self._rules: dict[str, str] = {}  # names by bodies
        self._keys: dict[str, str] = {}  # terminals of names that are not declared
        self._made: list[Schema] = []  # what `_wide` knows by its identity is kept
        self._referred: dict[str, str] = {}  # rules of what is referred to
        self._waiting: list[str] = []

    def run(self) -> str:
        lines = [f"start: {self._refer(ROOT)}"]
        while self._waiting:
            reference = self._waiting.pop()
            lines.append(f"{self._referred[reference]}: {self._target(reference)}")
        rules = (*self._rules.items(), *self._keys.items())
        return "\n".join([*lines, *(f"{name}: {body}" for body, name in rules), ""])

    def _refer(self, reference: str) -> str:
        """The rule of a definition, or of the whole; those that are named here are written one after another."""
        if reference not in self._referred:
            self._waiting.append(reference)
        return self._referred.setdefault(reference, f"d{len(self._referred)}")

    def _target(self, reference: str) -> str:
        if reference == ROOT:
            return self._node(self._root, "$")
        name = reference.rpartition("/")[2]
        return self._node(self._definitions[name], f"$.$defs.{name}")

    def _rule(self, body: str) -> str:
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def _node(self, schema: Any, path: str) -> str:
        """The rule of a schema, by llguidance's reader where no number of it needs more, or this one knows less."""
        if self._wide.within(schema):
            try:
                return self._rule(self._body(schema, path))
            except _NotWritten:
                pass
        return self._rule(f"%json {json.dumps(self._left(schema, path))}")

    def _left(self, schema: Any, path: str) -> Schema:
        """What llguidance's reader is given: the schema, and what it refers to."""
        if not isinstance(schema, dict):
            schema = {}
        needed: dict[str, Any] = {}
        waiting = [schema]
        while waiting:
            for one in _schemas(waiting.pop()):
                name = one.get("$ref", "").rpartition("/")[2]
                if name == ROOT:
                    raise _NotWritten
                if name and name not in needed:
                    needed[name] = self._definitions[name]
                    waiting.append(needed[name])
        whole: Schema = lowered({**schema, **({"$defs": needed} if needed else {})}, path)
        return whole | {"x-guidance": self._wording}

    def _body(self, schema: Schema, path: str) -> str:
        keywords = set(schema)
        if keywords == {"$ref"}:
            return self._refer(schema["$ref"])
        if keywords == {"anyOf"} or (keywords == {"allOf"} and len(schema["allOf"]) == 1):
            (keyword, branches), *_ = schema.items()
            return " | ".join(self._node(each, f"{path}.{keyword}[{i}]") for i, each in enumerate(branches))
        if keywords & {"enum", "const"}:
            return _constants(schema)
        types = _types(schema)
        if len(types) > 1:
            if not all(any(keyword in KNOWN[kind] for kind in types) for keyword in keywords):
                raise _NotWritten
            self._made += (single := [_of_type(schema, kind) for kind in types])
            return " | ".join(self._node(each, path) for each in single)
        if not types or not keywords <= KNOWN[types[0]] or types[0] not in ("integer", "object", "array"):
            raise _NotWritten
        return _integer(schema) if types[0] == "integer" else getattr(self, f"_{types[0]}")(schema, path)

    # --- objects ------------------------------------------------------------------------------------------------

    def _object(self, schema: Schema, path: str) -> str:
        others = schema.get("additionalProperties", True)
        required = schema.get("required", [])
        properties = {**schema.get("properties", {})}
        properties |= {name: others for name in required if name not in properties}
        if any(properties[name] is False for name in required):
            raise _NotWritten
        members = []
        for name, one in properties.items():
            if one is not False:
                value = self._node(one, f"{path}.properties.{name}")
                members.append((self._rule(f"{_regex(_quoted(name) + COLON)} {value}"), name in required))
        more = None
        if others is not False:
            value = self._node(others, f"{path}.additionalProperties")
            more = self._rule(f"{self._key(properties)} {_regex(COLON)} {value}")
        return f'"{{" {_members(members, more)} "}}"'

    def _key(self, declared: Mapping[str, Any]) -> str:
        """A name in quotes, without escapes, that is none of `declared`."""
        but = f" & ~{_regex('|'.join(map(_quoted, declared)))}" if declared else ""
        return self._keys.setdefault(_regex(f'"{PLAIN}*"') + but, f"K{len(self._keys)}")

    # --- arrays -------------------------------------------------------------------------------------------------

    def _array(self, schema: Schema, path: str) -> str:
        first, low, high = schema.get("prefixItems", []), schema.get("minItems", 0), schema.get("maxItems")
        if max(low, high or 0, len(first)) > MOST_ITEMS:
            raise _NotWritten
        if high is not None:
            first = first[:high]
        made = ""
        if schema.get("items", True) is not False and (high is None or high > len(first)):
            item = self._node(schema.get("items", True), f"{path}.items")
            least, most = max(0, low - len(first)), "" if high is None else high - len(first)
            made = f"({_SEPARATOR} {item}){{{least},{most}}}" if first else _repeated(item, low, high)
        elif low > len(first):
            raise _NotWritten
        for index in reversed(range(len(first))):
            item = self._node(first[index], f"{path}.prefixItems[{index}]")
            made = f"{_SEPARATOR if index else ''} {item} {made}"
            made = made if index < low else f"({made})?"
        return f'"[" {made} "]"'


def _repeated(item: str, low: int, high: int | None) -> str:
    some = f"{item} ({_SEPARATOR} {item}){{{max(0, low - 1)},{'' if high is None else max(0, high - 1)}}}"
    return some if low else f"({some})?"


def _members(members: list[tuple[str, bool]], more: str | None) -> str:
    """Properties in their order, then others, with commas between those that are there."""
    after = [f"{_SEPARATOR} {name}" if needed else f"({_SEPARATOR} {name})?" for name, needed in members]
    if more is not None:
        after.append(f"({_SEPARATOR} {more})*")
    heads = [name for name, _ in members] + ([] if more is None else [more])
    leading = next((i for i, (_, needed) in enumerate(members) if needed), None)
    if (len(members) if leading is None else leading) > MOST_OPTIONAL:
        raise _NotWritten
    first = heads if leading is None else heads[: leading + 1]
    choices = [" ".join([name, *after[i + (i < len(members)) :]]) for i, name in enumerate(first)]
    whole = f"({' | '.join(choices)})" if choices else ""
    return f"{whole}?" if whole and leading is None else whole


# --- terminals -------------------------------------------------------------------------------------------------


def _integer(schema: Schema) -> str:
    bounds = Bounds.of(schema)
    ends = [str(abs(int(end))) for end in (bounds.low, bounds.high) if end is not None]
    most = Decimal(10 ** max(DIGITS, *map(len, ends)) - 1)
    low, high = (-most if bounds.low is None else bounds.low), (most if bounds.high is None else bounds.high)
    return _regex(Bounds(low, high, integer=True).expression())


def _constants(schema: Schema) -> str:
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if schema.keys() - {"enum", "type"} and schema.keys() - {"const", "type"}:
        raise _NotWritten
    wanted = set(_types(schema))
    fitting = [value for value in values if not wanted or types_of(value) & wanted]
    if not fitting:
        raise _NotWritten
    return " | ".join(json.dumps(json.dumps(each, ensure_ascii=False, separators=(",", ":"))) for each in fitting)


def _of_type(schema: Schema, kind: str) -> Schema:
    return {"type": kind, **{k: v for k, v in schema.items() if k != "type" and k in KNOWN[kind]}}


def _quoted(name: str) -> str:
    return regex.literal(json.dumps(name, ensure_ascii=False))


def _regex(expression: str) -> str:
    return f"/{expression.replace('/', chr(92) + '/')}/"


_SEPARATOR = _regex(COMMA)
