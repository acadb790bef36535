"""Branches of a oneOf that exclude each other, so that anyOf says the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from maxserve.plugins.grammar.numbers import Bounds

Schema = dict[str, Any]

MOST_COMPARISONS = 100_000  # in one document
DEEPEST = 8  # schemas within schemas that are compared
ALL_TYPES = frozenset({"null", "boolean", "number", "string", "array", "object"})
_TYPE_OF = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}


class Exclusive:
    """Compares schemas as the reader of schemas writes them; `by_ref` has the targets of their references."""

    def __init__(self, by_ref: Mapping[str, Any]) -> None:
        self._by_ref = by_ref
        self._compared = 0

    def branches(self, branches: Sequence[Any]) -> list[tuple[Any, str | None]] | None:
        """Branches that are valid exactly where one of `branches` is, or less often; None if that cannot be written.

        Each comes with a property that it has to need: it distinguishes objects; what is valid then was so before.
        """
        tag = self._tag(branches) if len(branches) > 1 else None
        if tag is not None:
            return [self._needing(branch, tag) for branch in branches]
        apart = all(self._apart(one, other, 0) for one, other in combinations(branches, 2))
        return [(branch, None) for branch in branches] if apart else None

    # --- a property with constants of its own in each -----------------------------------------------------------

    def _tag(self, branches: Sequence[Any]) -> str | None:
        objects = [self._object(branch) for branch in branches]
        if any(each is None for each in objects):
            return None
        for name in objects[0]["properties"]:  # type: ignore[index]
            groups = [self._constants(each["properties"].get(name)) for each in objects if each is not None]
            known = [group for group in groups if group]
            if len(known) == len(groups) and len(frozenset().union(*known)) == sum(map(len, known)):
                return str(name)
        return None

    def _object(self, branch: Any) -> Schema | None:
        """The object schema that a branch is, or refers to."""
        for _ in range(DEEPEST):
            if not isinstance(branch, dict):
                return None
            if branch.get("type") == "object" and "properties" in branch:
                return branch
            if set(branch) != {"$ref"}:
                return None
            branch = self._by_ref[branch["$ref"]]
        return None

    def _constants(self, schema: Any) -> frozenset[tuple[str, Any]] | None:
        values = _values(schema) if isinstance(schema, dict) else None
        if values is None or not all(isinstance(value, str | int | None) for value in values):
            return None
        return frozenset((_TYPE_OF.get(type(value), "null"), value) for value in values)

    def _needing(self, branch: Any, tag: str) -> tuple[Any, str | None]:
        found = self._object(branch)
        return (branch, None) if found is None or tag in found.get("required", ()) else (found, tag)

    # --- any two ------------------------------------------------------------------------------------------------

    def _apart(self, one: Any, other: Any, depth: int) -> bool:
        """Whether surely no value is valid under both."""
        self._compared += 1
        if one is False or other is False:
            return True
        if not (isinstance(one, dict) and isinstance(other, dict)):
            return False
        if depth > DEEPEST or self._compared > MOST_COMPARISONS:
            return False
        return self._apart_here(one, other, depth) or self._apart_inside(one, other, depth)

    def _apart_inside(self, one: Schema, other: Schema, depth: int) -> bool:
        for this, that in ((one, other), (other, one)):
            if any(self._apart(part, that, depth + 1) for part in self._parts(this)):
                return True
            for keyword in ("anyOf", "oneOf"):
                if keyword in this and all(self._apart(branch, that, depth + 1) for branch in this[keyword]):
                    return True
        return False

    def _parts(self, schema: Schema) -> Iterator[Any]:
        if "$ref" in schema:
            yield self._by_ref[schema["$ref"]]
        yield from schema.get("allOf", ())

    def _apart_here(self, one: Schema, other: Schema, depth: int) -> bool:
        common = _types(one) & _types(other)
        if not common:
            return True
        if "number" in common and len(common) == 1 and _numbers_apart(one, other):
            return True
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not any(_same(value, each) for value in values for each in others)
        return common == {"object"} and self._members_apart(one, other, depth)

    def _members_apart(self, one: Schema, other: Schema, depth: int) -> bool:
        needed = dict.fromkeys((*one.get("required", ()), *other.get("required", ())))
        return any(self._apart(_member(one, name), _member(other, name), depth + 1) for name in needed)


def _member(schema: Schema, name: str) -> Any:
    default = True if "patternProperties" in schema else schema.get("additionalProperties", True)
    return schema.get("properties", {}).get(name, default)


def _types(schema: Schema) -> frozenset[str]:
    values = _values(schema)
    found = schema.get("type", ALL_TYPES)
    types = frozenset({found} if isinstance(found, str) else found)
    if "integer" in types:
        types = types - {"integer"} | {"number"}
    return types if values is None else types & {_TYPE_OF.get(type(value), "null") for value in values}


def _values(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    found: list[Any] | None = schema.get("enum")
    return found


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and one == other


def _numbers_apart(one: Schema, other: Schema) -> bool:
    values = _values(one) or _values(other)
    return values is None and Bounds.of(one).apart(Bounds.of(other))
