"""The test for schemas of which a finite value is valid; one that needs another of its own kind has none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]


def finite_schemas(schemas: Sequence[Schema], by_ref: Mapping[str, Any]) -> set[int]:
    """The ids of those objects; each of `schemas` is looked at once, and once more for each schema inside it.

    A schema needs one of each group of others to be finite; those without a group left are, and tell who waits.
    """
    missing: dict[int, int] = {}  # groups of a schema of which none is known to be finite
    waiting: dict[int, list[tuple[int, int]]] = defaultdict(list)  # by schema: (who, number of its group) for it
    for schema in schemas:
        groups = [group for group in _groups(schema, by_ref) if not any(each is True for each in group)]
        missing[id(schema)] = len(groups)
        for number, group in enumerate(groups):
            for each in group:
                if isinstance(each, dict):
                    waiting[id(each)].append((id(schema), number))
    found = [one for one, count in missing.items() if count == 0]
    met: set[tuple[int, int]] = set()
    for one in found:  # which grows meanwhile
        for group_of in waiting[one]:
            if group_of not in met:
                met.add(group_of)
                missing[group_of[0]] -= 1
                if missing[group_of[0]] == 0:
                    found.append(group_of[0])
    return set(found)


def _groups(schema: Schema, by_ref: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    if "$ref" in schema:
        yield (by_ref[schema["$ref"]],)
    for each in schema.get("allOf", ()):
        yield (each,)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            yield schema[keyword]
    for each in _inside(schema):
        yield (each,)


def _inside(schema: Schema) -> Iterable[Any]:
    """The schemas of which every value under `schema` has one inside."""
    if schema.get("type") == "object":
        for name in schema.get("required", ()):
            yield schema.get("properties", {}).get(name, schema.get("additionalProperties", True))
    if schema.get("type") == "array":
        least, prefix = schema.get("minItems", 0), schema.get("prefixItems", [])
        yield from prefix[:least]
        if least > len(prefix):
            yield schema.get("items", True)
