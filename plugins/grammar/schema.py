"""JSON schemas in the words that back ends know. What validates nothing is left out, with a warning where that is not
plain; what decides which texts are valid and cannot be kept is refused by keyword and path.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Mapping
from itertools import combinations, permutations
from typing import Any

import msgspec

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.exclusive import Exclusive
from maxserve.plugins.grammar.finite import finite_schemas
from maxserve.plugins.grammar.formats import FORMATS
from maxserve.plugins.grammar.keywords import ANNOTATIONS, ASSERTIONS
from maxserve.plugins.grammar.numbers import Bounds, decimal_of
from maxserve.plugins.grammar.references import ROOT, References, Target, escaped

Schema = dict[str, Any]

MOST_SCHEMAS = 5_000
MOST_WRITTEN = 20_000  # schemas, each as often as it is used
MOST_VALUES = 5_000  # of one enum
LARGEST_COUNT = 65_536  # of characters, items, properties
MOST_WARNINGS = 20
MOST_PERMUTED = 6  # values of an array without repetition, in all orders: 1,957 arrays
MOST_IN_ORDER = 12  # and in their own order: 4,096
DEEPEST_REFERENCE = 8  # references from one to the next, until the values of an enum
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
BRANCHES = ("allOf", "anyOf", "oneOf")


class ReadSchema(msgspec.Struct, frozen=True):
    """A schema in the words of back ends, with a line for each thing that was left out of it."""

    schema: Schema
    warnings: tuple[str, ...]


def checked(text: str) -> Schema:
    """The schema in the words that back ends know; GrammarUnsupported with keyword and path for what is not kept."""
    return read_schema(text).schema


def read_schema(text: str) -> ReadSchema:
    """The same, with what was left out. Takes time in proportion to the text, and memory within bounds."""
    try:
        reader = _Reader(json.loads(text))
        return ReadSchema(reader.run(), reader.warnings())
    except RecursionError:
        raise refuse("$", "schemas within schemas are too many to follow") from None


def refuse(path: str, why: str, *, invalid: bool = True) -> GrammarUnsupported:
    return GrammarUnsupported(f"{why} at {path}" if path else why, path=path, invalid=invalid)


def step(path: str, name: str) -> str:
    return f"{path}.{name}" if re.fullmatch(r"[A-Za-z_$][\w$-]*", name) else f"{path}[{json.dumps(name)}]"


class _At(msgspec.Struct, frozen=True):
    """Where a schema stands: as a JSON pointer, in words, and the pointer of its resource."""

    pointer: str
    path: str
    resource: str

    def keyword(self, keyword: str) -> _At:
        return _At(f"{self.pointer}/{keyword}", f"{self.path}.{keyword}", self.resource)

    def item(self, keyword: str, index: int) -> _At:
        return _At(f"{self.pointer}/{keyword}/{index}", f"{self.path}.{keyword}[{index}]", self.resource)

    def member(self, keyword: str, name: str) -> _At:
        pointer = f"{self.pointer}/{keyword}/{escaped(name)}"
        return _At(pointer, step(f"{self.path}.{keyword}", name), self.resource)


class _Reader:
    """Visits every schema that can be reached, each once, and writes it anew under the pointer that names it.

    Targets of references wait in a queue: recursion goes as deep as the text is nested, and no deeper.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._references = References(root)
        self._waiting: deque[tuple[Target, str]] = deque()
        self._done: dict[str, Any] = {}  # by pointer, "#/…"
        self._same: dict[str, list[str]] = {}  # what else describes the very same value
        self._paths: dict[str, str] = {}
        self._names: dict[str, str] = {}  # in $defs, of what is referred to
        self._left_out: dict[str, list[str]] = {}  # paths, by what was left out there

    def run(self) -> Schema:
        if _never(self._root):
            raise refuse("$", "nothing is valid under the schema false")
        root = self._visit(self._root, _At(ROOT, "$", ROOT))
        while self._waiting:
            target, path = self._waiting.popleft()
            self._once(target.schema, _At(target.pointer, path, target.resource))
        self._validate_circles()
        return _Writer(self._done, self._names, self._paths).whole(root)

    def warnings(self) -> tuple[str, ...]:
        lines = []
        for what, paths in self._left_out.items():
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            lines.append(f"{what} at {paths[0]}{more} was left out of the grammar: it validates nothing")
        return tuple(lines[:MOST_WARNINGS])

    def _leave_out(self, what: str, at: _At) -> None:
        self._left_out.setdefault(what, []).append(at.path)

    # --- one schema ---------------------------------------------------------------------------------------------

    def _visit(self, schema: Any, at: _At) -> Any:
        if len(self._done) > MOST_SCHEMAS:
            raise refuse(at.path, f"more than {MOST_SCHEMAS} schemas within one; too many")
        self._paths[at.pointer] = at.path
        if schema is True or _never(schema):
            self._done[at.pointer] = schema is True
            return schema is True
        if not isinstance(schema, dict):
            raise refuse(at.path, f"a schema must be an object or a boolean, not {_kind(schema)},")
        at = _At(at.pointer, at.path, self._references.resource(schema, at.pointer, at.resource))
        made: Schema = {}
        self._done[at.pointer] = made
        self._same[at.pointer] = []
        modern = self._without_repetition(_modern(schema), at)
        for keyword, value in modern.items():
            if keyword not in ASSERTIONS:
                self._keyword(made, keyword, value, at)
            elif not _holds_anyway(keyword, modern):
                raise _unsupported(keyword, at.path)
        _check_whole(made, at.path)
        return made

    def _without_repetition(self, schema: Schema, at: _At) -> Schema:
        """`uniqueItems` of a few known values as a list of all arrays, of more as those in the order of the values."""
        if schema.get("uniqueItems") is not True or "prefixItems" in schema or schema.get("type", "array") != "array":
            return schema
        arrays = _arrays_of(self._few_values(schema.get("items"), at), schema)
        if arrays is None:
            return schema
        gone = {"uniqueItems", "items", "minItems", "maxItems", "type"}
        return {"enum": arrays, **{keyword: value for keyword, value in schema.items() if keyword not in gone}}

    def _few_values(self, schema: Any, at: _At) -> list[Any]:
        """The values that are valid under a schema, when it lists them; an empty list when it does not."""
        for _ in range(DEEPEST_REFERENCE):
            if not isinstance(schema, dict):
                return []
            present = schema.keys() - ANNOTATIONS
            if present == {"$ref"} and isinstance(schema["$ref"], str):
                target = self._references.resolve(schema["$ref"], at.resource)
                schema = None if target is None else target.schema
            elif present in ({"enum"}, {"enum", "type"}) and isinstance(schema["enum"], list):
                return schema["enum"] if schema.get("type", "string") == "string" else []
            else:
                return [False, True] if present == {"type"} and schema["type"] == "boolean" else []
        return []

    def _keyword(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        reader = READERS.get(keyword)
        if reader is not None:
            reader(self, made, keyword, value, at)
        elif keyword not in ANNOTATIONS:
            self._leave_out(f"the keyword {keyword[:64]!r}", at)

    def _once(self, schema: Any, at: _At) -> Any:
        """What was visited by reference before is not visited again."""
        return self._done[at.pointer] if at.pointer in self._done else self._visit(schema, at)

    # --- keywords -----------------------------------------------------------------------------------------------

    def _type(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        types = [value] if isinstance(value, str) else value
        if not isinstance(types, list) or not types or not all(isinstance(t, str) and t in TYPES for t in types):
            raise refuse(at.path, f"keyword 'type': expected one or more of {', '.join(sorted(TYPES))},")
        made["type"] = types[0] if len(types) == 1 else list(dict.fromkeys(types))

    def _values(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if not isinstance(value, list) or not value or len(value) > MOST_VALUES:
            raise refuse(at.path, f"keyword 'enum': expected a list of 1 to {MOST_VALUES} values,")
        made["enum"] = value

    def _const(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        made["const"] = value

    def _number(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if decimal_of(value) is None:
            raise refuse(at.path, f"keyword {keyword!r}: expected a number,")
        made[keyword] = value

    def _multiple(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        number = decimal_of(value)
        if number is None or number <= 0:
            raise refuse(at.path, "keyword 'multipleOf': expected a number above 0,")
        made[keyword] = int(number) if number == int(number) else value

    def _count(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < 0:
            raise refuse(at.path, f"keyword {keyword!r}: expected a whole number from 0,")
        if value > LARGEST_COUNT and keyword.startswith("min"):
            raise _unsupported(keyword, at.path, f" above {LARGEST_COUNT}")
        made[keyword] = int(min(value, LARGEST_COUNT))  # fewer than may be: all that is written is valid

    def _pattern(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        made["pattern"] = _search(value, keyword, at.path)

    def _format(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        """A pattern says more than a format, which is an annotation where both are."""
        if isinstance(value, str) and value in FORMATS and "pattern" not in made:
            made["pattern"] = _search(FORMATS[value], keyword, at.path)
        else:
            self._leave_out(f"the format {str(value)[:64]!r}", at)

    def _ref(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        target = self._references.resolve(value, at.resource) if isinstance(value, str) else None
        if target is None:
            own = isinstance(value, str) and value.startswith("#")
            if not own:
                raise _unsupported("$ref", at.path, f" to {str(value)[:80]!r} (only within the same schema)")
            raise refuse(at.path, f"keyword '$ref': {value[:80]!r} leads nowhere,")
        self._same[at.pointer].append(target.pointer)
        if target.pointer != ROOT:
            self._names.setdefault(target.pointer, str(len(self._names)))
        made["$ref"] = ROOT if target.pointer == ROOT else f"#/$defs/{self._names[target.pointer]}"
        self._waiting.append((target, _as_path(target.pointer)))

    def _branches(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if not isinstance(value, list) or not value:
            raise refuse(at.path, f"keyword {keyword!r}: expected a list of schemas, at least one,")
        made[keyword] = []
        for i, branch in enumerate(value):
            location = at.item(keyword, i)
            self._same[at.pointer].append(location.pointer)
            made[keyword].append(self._once(branch, location))

    def _one(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        made[keyword] = self._once(value, at.keyword(keyword))

    def _several(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if not isinstance(value, list):
            raise refuse(at.path, f"keyword {keyword!r}: expected a list of schemas,")
        made[keyword] = [self._once(each, at.item(keyword, i)) for i, each in enumerate(value)]

    def _named(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if not isinstance(value, dict):
            raise refuse(at.path, f"keyword {keyword!r}: expected an object of schemas,")
        made[keyword] = {}
        for name, each in value.items():
            location = at.member(keyword, name)
            key = _search(name, keyword, at.path) if keyword == "patternProperties" else name
            made[keyword][key] = self._once(each, location)

    def _required(self, made: Schema, keyword: str, value: Any, at: _At) -> None:
        if isinstance(value, bool):  # as in draft 3, where it is about the property itself: see `_modern`
            return
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise refuse(at.path, "keyword 'required': expected a list of names,")
        if value:
            made["required"] = list(dict.fromkeys(value))

    # --- all of them --------------------------------------------------------------------------------------------

    def _validate_circles(self) -> None:
        """A schema that refers to itself about the same value says nothing."""
        clear: set[str] = set()
        for start in self._same:
            way: dict[str, list[str]] = {}
            waiting = [start]
            while waiting:
                pointer = waiting[-1]
                if pointer in clear:
                    waiting.pop()
                elif pointer not in way:
                    way[pointer] = list(self._same.get(pointer, ()))
                elif way[pointer]:
                    following = way[pointer].pop()
                    if following in way and following not in clear:
                        raise refuse(self._paths[following], "keyword '$ref' leads back to itself")
                    waiting.append(following)
                else:
                    clear.add(waiting.pop())


class _Writer:
    """Writes what was read as one schema, without what nothing finite is valid under, and oneOf as anyOf."""

    def __init__(self, done: Mapping[str, Any], names: Mapping[str, str], paths: Mapping[str, str]) -> None:
        self._done = done
        self._names = names
        self._path_of = {id(made): paths[pointer] for pointer, made in done.items() if isinstance(made, dict)}
        self._by_ref = {f"#/$defs/{name}": done[pointer] for pointer, name in names.items()} | {ROOT: done[ROOT]}
        self._finite = finite_schemas([each for each in done.values() if isinstance(each, dict)], self._by_ref)
        self._exclusive = Exclusive(self._by_ref)
        self._written = 0

    def whole(self, root: Any) -> Schema:
        if root is True:
            return {}
        if id(root) not in self._finite:
            raise refuse("$", "no finite value is valid: the schema needs itself")
        made: Schema = self._schema(root)
        definitions = {name: self._schema(self._done[pointer]) for pointer, name in self._names.items()}
        return {**made, "$defs": definitions} if definitions else made

    def _schema(self, schema: Any) -> Any:
        if isinstance(schema, bool):
            return schema
        if id(schema) not in self._finite:
            return False
        self._written += 1
        if self._written > MOST_WRITTEN:
            raise refuse(self._path_of.get(id(schema), "$"), "the schema repeats itself too often")
        made = {keyword: self._value(keyword, value) for keyword, value in schema.items() if keyword != "oneOf"}
        if "oneOf" in schema:
            self._one_of(made, schema)
        return made

    def _value(self, keyword: str, value: Any) -> Any:
        if keyword in ("allOf", "prefixItems"):
            return [self._schema(each) for each in value]
        if keyword == "anyOf":
            return self._possible(value)
        if keyword in ("properties", "patternProperties"):
            return {name: self._schema(each) for name, each in value.items()}
        return self._schema(value) if keyword in ("items", "additionalProperties") else value

    def _possible(self, branches: list[Any]) -> list[Any]:
        return [made for branch in branches if (made := self._schema(branch)) is not False]

    def _needing(self, branch: Any, name: str | None) -> Any:
        made = self._schema(branch)
        return made if name is None else {**made, "required": [*made.get("required", ()), name]}

    def _one_of(self, made: Schema, schema: Schema) -> None:
        possible = [each for each in schema["oneOf"] if each is True or id(each) in self._finite]
        branches = self._exclusive.branches(possible)
        if branches is None:
            path = self._path_of.get(id(schema), "$")
            raise _unsupported("oneOf", path, ": two branches may be valid at once; distinguish them by type, or "
                               "by a required property with constants of its own, or write anyOf")  # fmt: skip
        written = [self._needing(branch, name) for branch, name in branches]
        if "anyOf" in made:
            made.setdefault("allOf", []).append({"anyOf": written})
        else:
            made["anyOf"] = written


def _modern(schema: Schema) -> Schema:
    """A schema with the spellings of older drafts in those of 2020-12, as far as they say the same."""
    found = schema
    for old, rewrite in _OLDER.items():
        if old in schema:
            found = rewrite(found)
    return found


def _exclusive_flags(schema: Schema) -> Schema:
    """Draft 4: `exclusiveMinimum: true` is about the `minimum` beside it."""
    made = dict(schema)
    for flag, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if isinstance(made.get(flag), bool) and made.pop(flag) and bound in made:
            made[flag] = made.pop(bound)
    return made


def _tuple_items(schema: Schema) -> Schema:
    """Up to 2019-09: a list of `items`, and `additionalItems` for those that come after."""
    made = {key: value for key, value in schema.items() if key != "additionalItems"}
    if isinstance(schema.get("items"), list):
        made["prefixItems"] = made.pop("items")
        if "additionalItems" in schema:
            made["items"] = schema["additionalItems"]
    return made


def _required_members(schema: Schema) -> Schema:
    """Draft 3: a property says itself that it is required."""
    members = schema["properties"]
    if not isinstance(members, dict) or not isinstance(schema.get("required", []), list):
        return schema
    needed = [name for name, one in members.items() if isinstance(one, dict) and one.get("required") is True]
    return {**schema, "required": [*schema.get("required", []), *needed]} if needed else schema


def _names_of_properties(schema: Schema) -> Schema:
    """`propertyNames` where nothing else names properties: any string, a pattern, or a list of names."""
    names = schema["propertyNames"]
    made = {key: value for key, value in schema.items() if key != "propertyNames"}
    if names is True or (isinstance(names, dict) and not set(names) - ANNOTATIONS - {"type"} and _strings(names)):
        return made
    if not isinstance(names, dict) or not _strings(names) or "properties" in schema or "patternProperties" in schema:
        return schema
    others = made.pop("additionalProperties", True)
    present = set(names) - ANNOTATIONS - {"type"}
    if present == {"pattern"}:
        return {**made, "patternProperties": {names["pattern"]: others}, "additionalProperties": False}
    values = names["enum"] if present == {"enum"} else [names.get("const")] if present == {"const"} else None
    if not isinstance(values, list):
        return schema
    members = {value: others for value in values if isinstance(value, str)}
    return {**made, "properties": members, "additionalProperties": False}


def _one_set_of_members(schema: Schema) -> Schema:
    """`oneOf` of nothing but required names: an object has those of one branch, and none that would make it another."""
    branches = schema["oneOf"]
    if schema.get("type") != "object" or "anyOf" in schema or not isinstance(branches, list):
        return schema
    if not all(isinstance(each, dict) and each.keys() - ANNOTATIONS == {"required"} for each in branches):
        return schema
    if not all(isinstance(each["required"], list) for each in branches):
        return schema
    needed = [set(map(str, each["required"])) for each in branches]
    if any(one <= other for one, other in permutations(needed, 2)):
        return schema
    every = sorted(set[str]().union(*needed))
    made = {key: value for key, value in schema.items() if key != "oneOf"}
    made["anyOf"] = [
        {"required": sorted(names), "properties": {name: False for name in every if name not in names}}
        for names in needed
    ]
    return made


def _unevaluated(schema: Schema) -> Schema:
    """Where nothing but the schema itself evaluates members or items, the unevaluated ones are the additional ones."""
    if schema.keys() & {*BRANCHES, "$ref", "if", "dependentSchemas"}:
        return schema
    made = dict(schema)
    for keyword, additional in (("unevaluatedProperties", "additionalProperties"), ("unevaluatedItems", "items")):
        if keyword in made:
            value = made.pop(keyword)
            made.setdefault(additional, value)
    return made


def _arrays_of(values: list[Any], schema: Schema) -> list[list[Any]] | None:
    """The arrays without repetition of `values`, within the counts of `schema`; None when they are too many."""
    if not values or len(values) > MOST_IN_ORDER or len({json.dumps(value) for value in values}) < len(values):
        return None
    low, high = schema.get("minItems", 0), schema.get("maxItems", len(values))
    if not isinstance(low, int) or not isinstance(high, int) or "enum" in schema or "const" in schema:
        return None
    choose = permutations if len(values) <= MOST_PERMUTED else combinations
    return [list(each) for count in range(low, min(high, len(values)) + 1) for each in choose(values, count)] or None


def _strings(schema: Schema) -> bool:
    return bool(schema.get("type", "string") == "string")


_OLDER: Mapping[str, Callable[[Schema], Schema]] = {
    "exclusiveMinimum": _exclusive_flags,
    "exclusiveMaximum": _exclusive_flags,
    "items": _tuple_items,
    "additionalItems": _tuple_items,
    "propertyNames": _names_of_properties,
    "unevaluatedProperties": _unevaluated,
    "unevaluatedItems": _unevaluated,
    "properties": _required_members,
    "oneOf": _one_set_of_members,
}


def _never(schema: Any) -> bool:
    """Whether a schema says outright that nothing is valid."""
    if not isinstance(schema, dict):
        return schema is False
    return (
        "not" in schema and (schema["not"] is True or schema["not"] == {}) and not schema.keys() - ANNOTATIONS - {"not"}
    )


def _holds_anyway(keyword: str, schema: Schema) -> bool:
    """Whether an assertion that is not kept is true of all that is valid under the rest of `schema`."""
    value = schema[keyword]
    if keyword == "uniqueItems":
        most = schema.get("maxItems")
        return value is False or (isinstance(most, int) and most <= 1)
    if keyword == "if":
        return not schema.keys() & {"then", "else"}
    needs = {"then": "if", "else": "if", "minContains": "contains", "maxContains": "contains"}.get(keyword)
    if needs is not None:
        return needs not in schema
    return bool(value in _HARMLESS.get(keyword, ()))


_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "not": (False,),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "dependencies"), ({},)),
    **dict.fromkeys(("propertyNames", "unevaluatedProperties", "unevaluatedItems", "additionalItems"), (True, {})),
}


def _check_whole(made: Schema, path: str) -> None:
    """What keywords beside each other say together."""
    for low, high in COUNTS:
        if made.get(low, 0) > made.get(high, LARGEST_COUNT):
            raise refuse(path, f"nothing is valid: {low!r} is above {high!r}")
    if made.keys() & set(BOUNDS) and Bounds.of(made).empty:
        raise refuse(path, "nothing is valid: 'minimum' is above 'maximum'")
    names = {*made.get("properties", ()), *made.get("required", ())}
    for pattern in made.get("patternProperties", ()):
        if any(re.search(_python(pattern), name) for name in names):
            raise _unsupported("patternProperties", path, " that also match a name in properties or required")
    _check_property_counts(made, path)


def _check_property_counts(made: Schema, path: str) -> None:
    """How many members an object has is known where all are required, or where others may come as well."""
    members, needed = made.get("properties", {}), len(made.get("required", ()))
    closed = made.get("additionalProperties") is False and "patternProperties" not in made
    optional = len(members.keys() - set(made.get("required", ())))
    if made.get("minProperties", 0) <= needed:
        made.pop("minProperties", None)
    elif made["minProperties"] > needed + 1 or (optional and not closed):
        raise _unsupported("minProperties", path, " above the number of required ones")
    if closed and made.get("maxProperties", 0) >= needed + optional:
        made.pop("maxProperties", None)
    elif "maxProperties" in made and optional and not (closed and made["maxProperties"] == needed + 1):
        raise _unsupported("maxProperties", path, " below the number of properties that may be left out")


def _python(pattern: str) -> str:
    """Our notation as `re` reads it, wide enough for a test of names."""
    return re.sub(r"\\p\{\w+\}|\\x\{[0-9A-F]+\}", r"\\w", pattern)


def _search(value: Any, keyword: str, path: str) -> str:
    if not isinstance(value, str):
        raise refuse(path, f"keyword {keyword!r}: expected a regular expression,")
    try:
        return regex.read(value).pattern
    except GrammarUnsupported as error:
        raise refuse(path, f"keyword {keyword!r}: {error.message},") from None


def _unsupported(keyword: str, path: str, detail: str = "") -> GrammarUnsupported:
    return GrammarUnsupported(f"keyword {keyword!r} at {path} is not supported{detail}", path=path, invalid=True)


def _kind(value: Any) -> str:
    return {list: "a list", str: "a string", int: "a number", float: "a number"}.get(type(value), "null")


def _as_path(pointer: str) -> str:
    path = "$"
    for token in pointer.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        path = f"{path}[{token}]" if token.isdigit() else step(path, token)
    return path


Reader = Callable[[_Reader, Schema, str, Any, _At], None]
READERS: Mapping[str, Reader] = {
    "type": _Reader._type,
    "enum": _Reader._values,
    "const": _Reader._const,
    "multipleOf": _Reader._multiple,
    "pattern": _Reader._pattern,
    "format": _Reader._format,
    "$ref": _Reader._ref,
    "items": _Reader._one,
    "additionalProperties": _Reader._one,
    "prefixItems": _Reader._several,
    "properties": _Reader._named,
    "patternProperties": _Reader._named,
    "required": _Reader._required,
    **dict.fromkeys(BOUNDS, _Reader._number),
    **dict.fromkeys(BRANCHES, _Reader._branches),
    **dict.fromkeys((name for pair in COUNTS for name in pair), _Reader._count),
}
