"""Schemas with integers wider than a float as Lark: digits by expressions of ours, the rest by llguidance's own reader.

llguidance keeps bounds and constants as 64-bit floats. Only schemas on the way to such a number are written here:
exactly, or they are refused by keyword and path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.conjunction import TYPES, conjunction, key_of
from maxserve.plugins.grammar.lowering import BOUNDS, EXACT, held, lowered, needs_remainders
from maxserve.plugins.grammar.multiples import (
    Multiples,
    ends,
    is_multiple,
    whole_step,
)
from maxserve.plugins.grammar.numbers import Bounds, decimal_of
from maxserve.plugins.grammar.references import ROOT
from maxserve.plugins.grammar.rules import MOST_RULES, check_rules
from maxserve.plugins.grammar.schema_regex import COLON, COMMA, KNOWN, PLAIN, types_of, within_string

Schema = dict[str, Any]

DIGITS = 20  # where there is no bound: as many as the largest number of 64 bits has
MOST_NEVER = 50  # definitions under which nothing is valid
SAID = {kind: frozenset(keywords) for kind, keywords in KNOWN.items()} | {
    "object": KNOWN["object"] | {"patternProperties", "minProperties", "maxProperties"},
    "integer": KNOWN["integer"] | {"multipleOf"},
    "number": KNOWN["number"] | {"multipleOf"},
}


def wide_grammar(schema: Schema, guidance: Mapping[str, Any]) -> str | None:
    """Lark for a schema as the reader of schemas writes it; None where no number of it needs that.

    GrammarUnsupported with keyword and path for what cannot be written exactly.
    """
    definitions = schema.get("$defs", {})
    root = {keyword: value for keyword, value in schema.items() if keyword != "$defs"}
    found = _Wide(root, definitions)
    if not found.within(root):
        return None
    never: set[str] = set()
    while len(never) < MOST_NEVER and ROOT not in never:
        try:
            text = _Writer(root, definitions, found, guidance, never).run()
        except _NeverNamed as error:
            never.add(error.name)
        except RecursionError:
            raise GrammarUnsupported("schemas within schemas are too many to follow", invalid=True) from None
        else:
            check_rules(text)
            return text
    raise GrammarUnsupported("nothing is valid at $", path="$", invalid=True)


class _NeverError(Exception):
    """No value is valid."""


class _NeverNamed(Exception):
    """No value is valid under what other rules name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


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
            here = _is_wide(schema) or schema.get("$ref") in self._targets or any(map(_is_far, schema.get("allOf", ())))
            self._known[id(schema)] = here or any(map(self.within, _children(schema)))
        return self._known[id(schema)]


def _is_wide(schema: Schema) -> bool:
    if not all(map(held, [*schema.get("enum", ()), schema.get("const")])):
        return True
    types = _types(schema) or TYPES
    if "integer" in types and "number" not in types and needs_remainders(schema):
        return True
    return _is_far(schema) and "integer" in types


def _is_far(schema: Any) -> bool:
    """Whether a bound is beyond what floats hold, whatever the type."""
    if not isinstance(schema, dict) or not schema.keys() & set(BOUNDS):
        return False
    bounds = Bounds.of(schema).whole()
    return any(end is not None and abs(end) > EXACT for end in (bounds.low, bounds.high))


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

    def __init__(
        self, root: Schema, definitions: Mapping[str, Any], wide: _Wide, guidance: Mapping[str, Any], never: set[str]
    ) -> None:
        self._root = root
        self._definitions = definitions
        self._wide = wide
        self._guidance = dict(guidance)
        self._rules: dict[str, str] = {}  # names by bodies
        self._keys: dict[str, str] = {}  # terminals of names that are not declared
        self._multiples = Multiples()
        self._kept: list[Any] = []  # what `_wide` knows by its identity
        self._named: dict[str, str] = {}  # rules of what is referred to, by reference, and of what holds at once
        self._waiting: list[tuple[str, Any, str]] = []  # key, schema, path
        self._never = never  # keys
        self._writers: dict[str, Callable[[Schema, str], str]] = {
            "integer": self._integer,
            "object": self._object,
            "array": self._array,
        }

    def run(self) -> str:
        lines = [f"start: {self._refer(ROOT)}"]
        while self._waiting:
            key, schema, path = self._waiting.pop()
            try:
                lines.append(f"{self._named[key]}: {self._node(schema, path)}")
            except _NeverError:
                raise _NeverNamed(key) from None
        rules = [f"{name}: {body}" for body, name in (*self._rules.items(), *self._keys.items())]
        divided = [f"{name}: {body}" for name, body in self._multiples.terminals.items()]
        return "\n".join([*lines, *rules, *divided, ""])

    def _refer(self, reference: str) -> str:
        """The rule of a definition, or of the whole; those that are named here are written one after another."""
        target, path = self._target(reference), "$"
        while isinstance(target, dict) and set(target) == {"$ref"}:
            reference = target["$ref"]
            target = self._target(reference)
        if reference != ROOT:
            path = f"$.$defs.{reference.rpartition('/')[2]}"
        return self._later(reference, target, path)

    def _target(self, reference: str) -> Any:
        return self._root if reference == ROOT else self._definitions[reference.rpartition("/")[2]]

    def _later(self, key: str, schema: Any, path: str) -> str:
        if key in self._never:
            raise _NeverError
        if key not in self._named:
            self._named[key] = f"d{len(self._named)}"
            self._waiting.append((key, schema, path))
        if len(self._named) > MOST_RULES:
            raise _cannot("allOf", path, "with so many branches")
        return self._named[key]

    def _rule(self, body: str) -> str:
        return self._rules.setdefault(body, f"r{len(self._rules)}")

    def _node(self, schema: Any, path: str) -> str:
        """The rule of a schema, by llguidance's reader where no number of it needs more."""
        if schema is False or _is_never(schema):
            raise _NeverError
        if self._wide.within(schema):
            return self._rule(self._body(schema, path))
        if isinstance(schema, dict) and schema.keys() & {"allOf", "anyOf"}:
            with suppress(GrammarUnsupported):  # where nothing may be valid under a branch, which llguidance refuses
                return self._rule(self._body(schema, path))
        return self._rule(self._plain(schema, path))

    def _plain(self, schema: Any, path: str) -> str:
        return f"%json {json.dumps(self._left(schema, path))}"

    def _left(self, schema: Any, path: str) -> Schema:
        """What llguidance's reader is given: the schema, and what it refers to."""
        if not isinstance(schema, dict):
            schema = {}
        needed: dict[str, Any] = {}
        waiting = [schema]
        while waiting:
            for one in _schemas(waiting.pop()):
                name = one.get("$ref", "").rpartition("/")[2]
                if name and name not in needed:
                    needed[name] = self._definitions[name]
                    waiting.append(needed[name])
        whole: Schema = lowered({**schema, **({"$defs": needed} if needed else {})}, path)
        return whole | {"x-guidance": self._guidance}

    def _body(self, schema: Schema, path: str) -> str:
        keywords = set(schema)
        if keywords == {"$ref"}:
            return self._refer(schema["$ref"])
        if keywords == {"anyOf"}:
            return self._either((each, f"{path}.anyOf[{i}]") for i, each in enumerate(schema["anyOf"]))
        if keywords & {"allOf", "anyOf", "$ref"}:
            return self._at_once(schema, path)
        if keywords & {"enum", "const"}:
            return _constants(schema, path)
        types = _types(schema) or list(TYPES)
        kinds = [kind for kind in types if kind != "integer" or "number" not in types]
        if len(kinds) > 1:
            return self._either((_of_type(schema, kind), path) for kind in kinds)
        writer = self._writers.get(kinds[0])
        return self._plain(schema, path) if writer is None else writer(schema, path)

    def _either(self, branches: Iterable[tuple[Any, str]]) -> str:
        """The rules of those branches under which something is valid."""
        found = []
        for schema, path in branches:
            self._kept.append(schema)
            with suppress(_NeverError):
                found.append(self._node(schema, path))
        if not found:
            raise _NeverError
        return " | ".join(dict.fromkeys(found))

    def _at_once(self, schema: Schema, path: str) -> str:
        made = conjunction(schema, self._target, path)
        self._kept.append(made)
        if made is False:
            raise _NeverError
        key = key_of(schema)
        return self._later(key, made, path) if '"$ref"' in key else self._node(made, path)

    # --- numbers ------------------------------------------------------------------------------------------------

    def _integer(self, schema: Schema, path: str) -> str:
        low, high = ends(Bounds.of(schema), DIGITS)
        step = whole_step(schema.get("multipleOf", 1))
        if step == 1:
            return _regex(Bounds(Decimal(low), Decimal(high), integer=True).expression())
        if not self._multiples.can(low, high, step):
            raise _cannot("multipleOf", path, f"with {step}")
        made = self._multiples.within(low, high, step)
        return self._keys.setdefault(made, f"K{len(self._keys)}")

    # --- objects ------------------------------------------------------------------------------------------------

    def _object(self, schema: Schema, path: str) -> str:
        others, required = schema.get("additionalProperties", True), schema.get("required", [])
        patterns = schema.get("patternProperties", {})
        properties = {**schema.get("properties", {})}
        for name in required:
            properties.setdefault(name, others)
        members = []
        for name, one in properties.items():
            try:
                value = self._node(one, f"{path}.properties.{name}")
            except _NeverError:
                if name in required:
                    raise
                continue
            members.append((self._rule(f"{_regex(_quoted(name) + COLON)} {value}"), name in required))
        more = []
        declared = list(map(_quoted, properties))
        for pattern, one in patterns.items():
            with suppress(_NeverError):
                value = self._node(one, f"{path}.patternProperties.{pattern}")
                apart = [_key_like(each) for each in patterns if each != pattern]
                more.append(self._rule(f"{self._key(_key_like(pattern), apart)} {_regex(COLON)} {value}"))
        with suppress(_NeverError):
            value = self._node(others, f"{path}.additionalProperties")
            key = self._key(f'"{PLAIN}*"', [*declared, *map(_key_like, patterns)])
            more.append(self._rule(f"{key} {_regex(COLON)} {value}"))
        other = self._rule(" | ".join(more)) if more else None
        return f'"{{" {self._members(members, other, _counts(schema, members, path))} "}}"'

    def _key(self, like: str, declared: Sequence[str]) -> str:
        """A name in quotes, without escapes, that is none of `declared`."""
        any_name = f'"{PLAIN}*"'
        body = _regex(like) if like == any_name else f"{_regex(like)} & {_regex(any_name)}"
        body += f" & ~{_regex('|'.join(declared))}" if declared else ""
        return self._keys.setdefault(body, f"K{len(self._keys)}")

    def _members(self, members: list[tuple[str, bool]], more: str | None, counts: tuple[int, int | None]) -> str:
        """Properties in their order, then others, with commas between those that are there."""
        low, high = counts
        if low and (more is None or (high is not None and high < low)):
            raise _NeverError
        others = _more(more, low, high) if more else ""
        leading = next((i for i, (_, needed) in enumerate(members) if needed), None)
        if leading is not None:
            name, _ = members[leading]
            before = f"({self._first(members[:leading])} {_SEPARATOR})? " if leading else ""
            return f"{before}{name} {_after(members[leading + 1 :])} {others}"
        alone = _repeated(more, low, high) if more and high != 0 else ""
        if not members:
            return alone
        first = f"{self._first(members)} {others}"
        return f"({first} | {alone})" if alone else f"({first})?"

    def _first(self, members: list[tuple[str, bool]]) -> str:
        """Some of what may be left out, at least one, in a rule of as many symbols as there are halves of halves."""
        if len(members) == 1:
            return members[0][0]
        half = len(members) // 2
        rest = self._rule(_after(members[half:]))
        return self._rule(f"{self._first(members[:half])} {rest} | {self._first(members[half:])}")

    # --- arrays -------------------------------------------------------------------------------------------------

    def _array(self, schema: Schema, path: str) -> str:
        first, low, high = schema.get("prefixItems", []), schema.get("minItems", 0), schema.get("maxItems")
        items = [(item, f"{path}.prefixItems[{index}]") for index, item in enumerate(first)]
        rules = []
        for item, location in items[:high]:
            try:
                rules.append(self._node(item, location))
            except _NeverError:
                high = len(rules)
                break
        rest = None
        if high is None or high > len(rules):
            with suppress(_NeverError):
                rest = self._node(schema.get("items", True), f"{path}.items")
        if low > (len(rules) if rest is None else low if high is None else high):
            raise _NeverError
        return f'"[" {_sequence(rules, rest, low, high)} "]"'


def _sequence(first: list[str], rest: str | None, low: int, high: int | None) -> str:
    """Items of rules of their own, then those of `rest`, from `low` to `high` of them together."""
    if not first:
        return "" if rest is None else _repeated(rest, low, high)
    most = None if high is None else high - len(first)
    made = "" if rest is None else _more(rest, max(0, low - len(first)), most)
    for index in reversed(range(len(first))):
        made = f"{_SEPARATOR if index else ''} {first[index]} {made}"
        made = made if index < low else f"({made})?"
    return made


def _repeated(item: str, low: int, high: int | None) -> str:
    some = f"{item} {_more(item, max(0, low - 1), None if high is None else max(0, high - 1))}"
    return some if low else f"({some})?"


def _more(item: str, low: int, high: int | None) -> str:
    """So many of `item`, each after a comma."""
    return "" if high == 0 else f"({_SEPARATOR} {item}){{{low},{'' if high is None else high}}}"


def _after(members: list[tuple[str, bool]]) -> str:
    """Properties that come after another one."""
    return " ".join(f"{_SEPARATOR} {name}" if needed else f"({_SEPARATOR} {name})?" for name, needed in members)


def _counts(schema: Schema, members: Sequence[tuple[str, bool]], path: str) -> tuple[int, int | None]:
    """How many properties that are not declared there are, which is known where all others are required."""
    low, high = schema.get("minProperties", 0), schema.get("maxProperties")
    needed = sum(required for _, required in members)
    if needed < len(members) and (low > needed or high is not None):
        raise _cannot(
            "minProperties" if low > needed else "maxProperties", path, "with properties that may be left out"
        )
    return max(0, low - needed), None if high is None else high - needed


# --- terminals -------------------------------------------------------------------------------------------------


def _constants(schema: Schema, path: str) -> str:
    """The values of a list that are valid under what else is required of numbers."""
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    if others := schema.keys() - {"enum", "const", "type", "multipleOf", *BOUNDS}:
        raise _cannot("enum" if "enum" in schema else "const", path, f"beside {min(others)!r}")
    fitting = [value for value in values if _fits(value, schema)]
    return " | ".join(json.dumps(json.dumps(each, ensure_ascii=False, separators=(",", ":"))) for each in fitting)


def _is_never(schema: Any) -> bool:
    """Whether what is written of constants and whole numbers is valid for none of them."""
    if not isinstance(schema, dict):
        return False
    if "enum" in schema or "const" in schema:
        return not any(_fits(value, schema) for value in schema.get("enum", [schema.get("const")]))
    if _types(schema) != ["integer"]:
        return False
    low, high = ends(Bounds.of(schema), DIGITS)
    step = whole_step(schema.get("multipleOf", 1))
    return high // step * step < low


def _fits(value: Any, schema: Schema) -> bool:
    wanted, number = set(_types(schema)), decimal_of(value)
    if wanted and not types_of(value) & wanted:
        return False
    if number is None:
        return True
    divides = "multipleOf" not in schema or is_multiple(value, schema["multipleOf"])
    return divides and Bounds.of({**schema, "type": "number"}).has(number)


def _of_type(schema: Schema, kind: str) -> Schema:
    return {**{keyword: value for keyword, value in schema.items() if keyword in SAID[kind]}, "type": kind}


def _key_like(pattern: str) -> str:
    return f'"{within_string(pattern)}"'


def _quoted(name: str) -> str:
    return regex.literal(json.dumps(name, ensure_ascii=False))


def _regex(expression: str) -> str:
    return f"/{expression.replace('/', chr(92) + '/')}/"


def _cannot(keyword: str, path: str, detail: str) -> GrammarUnsupported:
    return GrammarUnsupported(
        f"keyword {keyword!r} at {path} is not supported {detail}, beside integers beyond 2**53", path=path
    )


_SEPARATOR = _regex(COMMA)
