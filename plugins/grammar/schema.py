"""What may a JSON schema say? Whatever is not in these tables and could change what is valid is refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from maxserve.core.errors import GrammarUnsupported
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.formats import FORMATS

Schema = dict[str, Any]

MOST_SCHEMAS = 5_000
MOST_VALUES = 5_000  # of one enum
LARGEST_COUNT = 65_536  # of characters, items, properties
TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
ANNOTATIONS = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"}
    | {"deprecated", "readOnly", "writeOnly", "contentMediaType", "contentEncoding", "contentSchema"}
)
COUNTS = (("minLength", "maxLength"), ("minItems", "maxItems"), ("minProperties", "maxProperties"))
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
BRANCHES = ("allOf", "anyOf", "oneOf")


def checked(text: str) -> Schema:
    """The schema in the words that back ends know; GrammarUnsupported with keyword and path for all else."""
    try:
        return _Walk(json.loads(text)).run()
    except RecursionError:
        raise refuse("$", "references within references are too many to follow") from None


def refuse(path: str, why: str, *, invalid: bool = True) -> GrammarUnsupported:
    return GrammarUnsupported(f"{why} at {path}" if path else why, path=path, invalid=invalid)


def step(path: str, name: str) -> str:
    return f"{path}.{name}" if re.fullmatch(r"[A-Za-z_$][\w$-]*", name) else f"{path}[{json.dumps(name)}]"


class _Walk:
    """Visits every schema that can be reached, each once, and writes it anew under the pointer that names it."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._done: dict[str, Any] = {}  # by pointer, "#/…"
        self._same: dict[str, list[str]] = {}  # what else describes the very same value
        self._paths: dict[str, str] = {}
        self._names: dict[str, str] = {}  # in $defs, of what is referred to

    def run(self) -> Schema:
        if self._root is False:
            raise refuse("$", "nothing is valid under the schema false")
        root = self._visit(self._root, "#", "$")
        self._refuse_circles()
        self._refuse_endless()
        root = {} if root is True else root
        definitions = {name: self._done[place] for place, name in self._names.items()}
        return {**root, "$defs": definitions} if definitions else root

    # --- one schema ---------------------------------------------------------------------------------------------

    def _visit(self, schema: Any, pointer: str, path: str) -> Any:
        if len(self._done) > MOST_SCHEMAS:
            raise refuse(path, f"more than {MOST_SCHEMAS} schemas within one; too many")
        self._paths[pointer] = path
        if isinstance(schema, bool):
            self._done[pointer] = schema
            return schema
        if not isinstance(schema, dict):
            raise refuse(path, f"a schema must be an object or a boolean, not {_kind(schema)},")
        made: Schema = {}
        self._done[pointer] = made
        self._same[pointer] = []
        for keyword, value in schema.items():
            if keyword in ANNOTATIONS:
                self._annotation(keyword, value, pointer, path)
                continue
            reader = READERS.get(keyword)
            if reader is None:
                raise _unsupported(keyword, path)
            reader(self, made, keyword, value, pointer, path)
        _check_whole(made, path)
        return made

    def _annotation(self, keyword: str, value: Any, pointer: str, path: str) -> None:
        if keyword == "$id" and pointer != "#":
            raise _unsupported("$id", path, " (below the top it moves references)")
        if keyword == "$schema" and not (isinstance(value, str) and "json-schema.org/" in value):
            raise _unsupported("$schema", path, f" with {str(value)[:80]!r}")

    # --- keywords -----------------------------------------------------------------------------------------------

    def _type(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        types = [value] if isinstance(value, str) else value
        if not isinstance(types, list) or not types or not all(isinstance(t, str) and t in TYPES for t in types):
            raise refuse(path, f"keyword 'type': expected one or more of {', '.join(sorted(TYPES))},")
        made["type"] = types[0] if len(types) == 1 else types

    def _values(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, list) or not value or len(value) > MOST_VALUES:
            raise refuse(path, f"keyword 'enum': expected a list of 1 to {MOST_VALUES} values,")
        made["enum"] = value

    def _const(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        made["const"] = value

    def _number(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e15:
            raise refuse(path, f"keyword {keyword!r}: expected a number of at most 15 digits,")
        made[keyword] = value

    def _multiple(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise refuse(path, "keyword 'multipleOf': expected a number above 0,")
        if value != int(value) or value > 1e6:
            raise _unsupported("multipleOf", path, f" with {value} (whole numbers up to 1000000 are)")
        made[keyword] = int(value)

    def _count(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
            raise refuse(path, f"keyword {keyword!r}: expected a whole number from 0,")
        if value > LARGEST_COUNT:
            raise _unsupported(keyword, path, f" above {LARGEST_COUNT}")
        made[keyword] = int(value)

    def _pattern(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if "pattern" in made:
            raise _unsupported(keyword, path, " beside another of pattern and format")
        made["pattern"] = _search(value, keyword, path)

    def _format(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, str) or value not in FORMATS:
            raise _unsupported("format", path, f" with {str(value)[:60]!r} ({', '.join(FORMATS)} are)")
        self._pattern(made, keyword, FORMATS[value], pointer, path)

    def _ref(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        target = _target(self._root, value, path)
        place = _canonical(value)
        self._same[pointer].append(place)
        if place != "#":
            self._names.setdefault(place, str(len(self._names)))
        made["$ref"] = "#" if place == "#" else f"#/$defs/{self._names[place]}"
        self._once(target, place, _as_path(value))

    def _branches(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, list) or not value:
            raise refuse(path, f"keyword {keyword!r}: expected a list of schemas, at least one,")
        made[keyword] = []
        for i, branch in enumerate(value):
            place = f"{pointer}/{keyword}/{i}"
            self._same[pointer].append(place)
            made[keyword].append(self._once(branch, place, f"{path}.{keyword}[{i}]"))

    def _one(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        made[keyword] = self._once(value, f"{pointer}/{keyword}", f"{path}.{keyword}")

    def _several(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, list):
            raise refuse(path, f"keyword {keyword!r}: expected a list of schemas,")
        made[keyword] = [
            self._once(each, f"{pointer}/{keyword}/{i}", f"{path}.{keyword}[{i}]") for i, each in enumerate(value)
        ]

    def _named(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, dict):
            raise refuse(path, f"keyword {keyword!r}: expected an object of schemas,")
        made[keyword] = {}
        for name, each in value.items():
            place = f"{pointer}/{keyword}/{_escaped(name)}"
            key = _search(name, keyword, path) if keyword == "patternProperties" else name
            made[keyword][key] = self._once(each, place, step(f"{path}.{keyword}", name))

    def _required(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise refuse(path, "keyword 'required': expected a list of names,")
        if value:
            made["required"] = list(dict.fromkeys(value))

    def _unique(self, made: Schema, keyword: str, value: Any, pointer: str, path: str) -> None:
        if value is not False:
            raise _unsupported(keyword, path)

    def _once(self, schema: Any, pointer: str, path: str) -> Any:
        """What was visited by reference before is not visited again."""
        return self._done[pointer] if pointer in self._done else self._visit(schema, pointer, path)

    # --- all of them --------------------------------------------------------------------------------------------

    def _refuse_circles(self) -> None:
        """A schema that refers to itself about the same value says nothing."""
        clear: set[str] = set()

        def follow(pointer: str, way: tuple[str, ...]) -> None:
            if pointer in way:
                raise refuse(self._paths[pointer], "keyword '$ref' leads back to itself")
            if pointer not in clear:
                for other in self._same.get(pointer, ()):
                    follow(other, (*way, pointer))
                clear.add(pointer)

        for pointer in self._same:
            follow(pointer, ())

    def _refuse_endless(self) -> None:
        """No finite value may be valid, as when an object needs another of its kind."""
        ends: set[int] = set()
        while True:
            found = {id(s) for s in self._done.values() if isinstance(s, dict) and self._ends(s, ends)} - ends
            if not found:
                break
            ends |= found
        for pointer, schema in self._done.items():
            if isinstance(schema, dict) and id(schema) not in ends and pointer == "#":
                raise refuse(self._paths[pointer], "no finite value is valid: the schema needs itself")

    def _ends(self, schema: Schema, ends: set[int]) -> bool:
        def fine(one: Any) -> bool:
            return one is True or (isinstance(one, dict) and id(one) in ends)

        if "$ref" in schema and not fine(self._referred(schema["$ref"])):
            return False
        if not all(map(fine, schema.get("allOf", ()))):
            return False
        if any(not any(map(fine, schema[k])) for k in ("anyOf", "oneOf") if k in schema):
            return False
        return all(map(fine, _needed(schema)))

    def _referred(self, ref: str) -> Any:
        places = {f"#/$defs/{name}": place for place, name in self._names.items()}
        return self._done[places.get(ref, "#")]


def _needed(schema: Schema) -> Iterator[Any]:
    """The schemas of which every value under `schema` has one inside."""
    if schema.get("type") == "object":
        for name in schema.get("required", ()):
            yield schema.get("properties", {}).get(name, schema.get("additionalProperties", True))
    if schema.get("type") == "array":
        least, prefix = schema.get("minItems", 0), schema.get("prefixItems", [])
        yield from prefix[:least]
        if least > len(prefix):
            yield schema.get("items", True)


def _check_whole(made: Schema, path: str) -> None:
    """What keywords beside each other say together."""
    for low, high in COUNTS:
        if made.get(low, 0) > made.get(high, LARGEST_COUNT):
            raise refuse(path, f"nothing is valid: {low!r} is above {high!r}")
    least: float = max(made.get("minimum", -1e16), made.get("exclusiveMinimum", -1e16))
    most: float = min(made.get("maximum", 1e16), made.get("exclusiveMaximum", 1e16))
    if least > most:
        raise refuse(path, "nothing is valid: 'minimum' is above 'maximum'")
    names = {*made.get("properties", ()), *made.get("required", ())}
    for pattern in made.get("patternProperties", ()):
        if any(re.search(_python(pattern), name) for name in names):
            raise _unsupported("patternProperties", path, " that also match a name in properties or required")
    if made.get("minProperties", 0) > len(made.get("required", ())):
        raise _unsupported("minProperties", path, " above the number of required ones")
    made.pop("minProperties", None)


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


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _tokens(ref: str) -> list[str]:
    return [part.replace("~1", "/").replace("~0", "~") for part in unquote(ref[1:]).split("/")[1:]]


def _canonical(ref: str) -> str:
    return "/".join(["#", *map(_escaped, _tokens(ref))])


def _as_path(ref: str) -> str:
    path = "$"
    for token in _tokens(ref):
        path = f"{path}[{token}]" if token.isdigit() else step(path, token)
    return path


def _target(root: Any, ref: Any, path: str) -> Any:
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise _unsupported("$ref", path, f" to {str(ref)[:80]!r} (only to places in the same schema, '#/…')")
    place = root
    for token in _tokens(ref):
        if isinstance(place, list) and token.isdigit() and int(token) < len(place):
            place = place[int(token)]
        elif isinstance(place, dict) and token in place:
            place = place[token]
        else:
            raise refuse(path, f"keyword '$ref': {ref[:80]!r} leads nowhere,")
    return place


Reader = Callable[[_Walk, Schema, str, Any, str, str], None]
READERS: Mapping[str, Reader] = {
    "type": _Walk._type,
    "enum": _Walk._values,
    "const": _Walk._const,
    "multipleOf": _Walk._multiple,
    "pattern": _Walk._pattern,
    "format": _Walk._format,
    "$ref": _Walk._ref,
    "items": _Walk._one,
    "additionalProperties": _Walk._one,
    "prefixItems": _Walk._several,
    "properties": _Walk._named,
    "patternProperties": _Walk._named,
    "required": _Walk._required,
    "uniqueItems": _Walk._unique,
    **dict.fromkeys(BOUNDS, _Walk._number),
    **dict.fromkeys(BRANCHES, _Walk._branches),
    **dict.fromkeys((name for pair in COUNTS for name in pair), _Walk._count),
}
