"""Schemas as llguidance takes them: its bounds are 64-bit floats.

A bound of real numbers that such a float cannot hold is moved inwards, to the next one that can: what is written stays
valid.
"""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.plugins.grammar.numbers import Bounds, decimal_of

Schema = dict[str, Any]

EXACT = 2**53  # whole numbers up to here are floats
LARGEST = 2**63 - 1  # a float that is larger becomes this one
LOWEST = -(2**63) + 1024  # the next float above what has no counterpart
MOST_DIGITS = 10**18  # a range without an end begins below this
LARGEST_STEP = 100_000  # states of an automaton that divides
LARGEST_STEP_WITHIN = 4_096  # and of one that compares as well: larger ones end while a text is written
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def lowered(schema: Any, path: str = "$") -> Any:
    """`schema`, as the reader of schemas writes it, with numbers that llguidance keeps."""
    if not isinstance(schema, dict):
        return schema
    schema = _without_numbers(schema)
    made = {keyword: _value(keyword, value, f"{path}.{keyword}") for keyword, value in schema.items()}
    _check_constants(made, path)
    if "multipleOf" in schema:
        _check_step(schema, path)
    if schema.keys() & set(BOUNDS):
        for keyword in BOUNDS:
            made.pop(keyword, None)
        bounds = Bounds.of(schema)
        made |= _whole(bounds, path) if bounds.integer else _real(bounds, path)
    return made


def _without_numbers(schema: Schema) -> Schema:
    """Without what is written of numbers, where none is valid."""
    types = schema.get("type", "number")
    if {"integer", "number"} & ({types} if isinstance(types, str) else set(types)):
        return schema
    return {keyword: value for keyword, value in schema.items() if keyword not in (*BOUNDS, "multipleOf")}


def _check_constants(made: Schema, path: str) -> None:
    """Whole numbers that no float holds are taken out of an enum; GrammarUnsupported where nothing is left then."""
    if "enum" in made:
        made["enum"] = [value for value in made["enum"] if held(value)]
    for keyword, values in (("enum", made.get("enum", [None])), ("const", [made.get("const")])):
        if not any(map(held, values)):
            raise GrammarUnsupported(f"keyword {keyword!r} at {path} is not supported with so many digits", path=path)


def held(value: Any) -> bool:
    """Whether llguidance writes a constant as it is."""
    if isinstance(value, list | dict):
        return all(map(held, value.values() if isinstance(value, dict) else value))
    return (
        not isinstance(value, int) or abs(value) <= EXACT or (LOWEST <= value <= LARGEST and int(float(value)) == value)
    )


def _value(keyword: str, value: Any, path: str) -> Any:
    if keyword in ("allOf", "anyOf", "prefixItems"):
        return [lowered(each, f"{path}[{i}]") for i, each in enumerate(value)]
    if keyword in ("properties", "patternProperties", "$defs"):
        return {name: lowered(each, f"{path}.{name}") for name, each in value.items()}
    return lowered(value, path) if keyword in ("items", "additionalProperties") else value


def needs_remainders(schema: Schema) -> bool:
    """Whether a step is too large for llguidance."""
    step = schema.get("multipleOf")
    return step is not None and _scaled(step)[0] > _largest_step(schema)


def _largest_step(schema: Schema) -> int:
    return LARGEST_STEP_WITHIN if schema.keys() & set(BOUNDS) else LARGEST_STEP


def _scaled(step: Any) -> tuple[float, int]:
    """What llguidance makes of a `multipleOf`: it multiplies floats by ten until they are whole."""
    value, digits = float(step), 0
    while value % 1 and digits < 20:
        value, digits = value * 10, digits + 1
    return value, digits


def _check_step(schema: Schema, path: str) -> None:
    step = schema["multipleOf"]
    value, digits = _scaled(step)
    if value > _largest_step(schema) or Decimal(int(value)).scaleb(-digits) != decimal_of(step):
        raise GrammarUnsupported(f"keyword 'multipleOf' at {path} is not supported with {step}", path=path)


def _whole(bounds: Bounds, path: str) -> Schema:
    """Bounds that floats hold; schemas with others are written by wide_integers.py."""
    made = {key: int(end) for key, end in (("minimum", bounds.low), ("maximum", bounds.high)) if end is not None}
    for keyword, end in made.items():
        if abs(end) > EXACT:
            raise GrammarUnsupported(f"keyword {keyword!r} at {path} is not supported with so many digits", path=path)
    return made


def _real(bounds: Bounds, path: str) -> Schema:
    made: Schema = {}
    low, high = bounds.low, bounds.high
    if low is not None:
        made["exclusiveMinimum" if bounds.open_low else "minimum"] = _float(max(low, Decimal(-MOST_DIGITS)), up=True)
    if high is not None:
        made["exclusiveMaximum" if bounds.open_high else "maximum"] = _float(min(high, Decimal(MOST_DIGITS)), up=False)
    if (low is not None and low >= MOST_DIGITS) or (high is not None and high <= -MOST_DIGITS):
        raise GrammarUnsupported(f"keyword 'minimum' at {path} is not supported with so many digits", path=path)
    return made


def _float(value: Decimal, *, up: bool) -> int | float:
    """A number that is `value` when it is written as a float is, or as near as can be."""
    found = float(value)
    written = Decimal(repr(found))
    if (written < value and up) or (written > value and not up):
        found = math.nextafter(found, math.inf if up else -math.inf)
    return int(found) if found == int(found) else found
