"""Bounds of numbers: as expressions for automata, and as llguidance keeps them, against exact arithmetic."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.core.errors import GrammarUnsupported
from maxserve.core.grammars import GrammarCompiler
from maxserve.plugins.grammar.lowering import lowered
from maxserve.plugins.grammar.numbers import Bounds, decimal_of
from maxserve.plugins.grammar.schema import checked
from maxserve.testing.grammar import written

NEAR = [sign * Decimal(size) for size in ("0", "1", "0.1", "0.01", "0.0001", "10", "1000") for sign in (1, -1)]

decimals = st.one_of(
    st.integers(-30, 30).map(Decimal),
    st.integers(-(10**20), 10**20).map(Decimal),
    st.builds(lambda digits, places: Decimal(digits).scaleb(-places), st.integers(-(10**6), 10**6), st.integers(1, 4)),
)
bounds = st.builds(
    lambda low, high, open_low, open_high: Bounds(
        low, high, open_low and low is not None, open_high and high is not None
    ),
    st.none() | decimals,
    st.none() | decimals,
    st.booleans(),
    st.booleans(),
)


def within(number: Decimal, limits: Bounds) -> bool:
    low = limits.low is None or number > limits.low or (number == limits.low and not limits.open_low)
    return low and (limits.high is None or number < limits.high or (number == limits.high and not limits.open_high))


def probes(limits: Bounds) -> set[Decimal]:
    ends = [end for end in (limits.low, limits.high) if end is not None]
    found = {end + step for end in (*ends, Decimal(0)) for step in NEAR}
    return {number for number in found if abs(number) < 10**15 or (limits.low is not None and limits.high is not None)}


@given(limits=bounds)
@settings(deadline=None, max_examples=300)
def test_expressions_of_numbers_have_what_is_within_and_nothing_else(limits: Bounds) -> None:
    if limits.empty:
        return
    expression = re.compile(limits.expression())
    for number in probes(limits):
        text = format(number, "f")
        for written_so in {text, f"{text}0" if "." in text else f"{text}.0"}:
            if not (number == 0 and text.startswith("-")):
                assert bool(expression.fullmatch(written_so)) == within(number, limits), (written_so, limits)


@given(limits=bounds)
@settings(deadline=None, max_examples=300)
def test_expressions_of_integers(limits: Bounds) -> None:
    whole = limits.whole()
    if whole.empty:
        return
    expression = re.compile(whole.expression())
    for number in {round(number) for number in probes(limits)}:
        assert bool(expression.fullmatch(str(number))) == within(Decimal(number), limits), (number, limits)


@given(one=bounds, other=bounds, numbers=st.lists(decimals, min_size=1, max_size=30))
def test_bounds_that_are_apart_share_nothing(one: Bounds, other: Bounds, numbers: list[Decimal]) -> None:
    if one.apart(other):
        assert not any(within(number, one) and within(number, other) for number in numbers)


@pytest.mark.parametrize(
    ("value", "number"), [(0.1, "0.1"), (2**63, str(2**63)), (True, None), ("1", None), (float("inf"), None)]
)
def test_decimal_of(value: Any, number: str | None) -> None:
    assert decimal_of(value) == (None if number is None else Decimal(number))


SCHEMAS: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"maximum": 2**63 - 1}, ["-1", "9223372036854775807"], ["9223372036854775808"]),
    ({"minimum": 0, "maximum": 2**63 - 1}, ["0", "9223372036854775807"], ["-1", "9223372036854775808"]),
    ({"exclusiveMinimum": 0, "exclusiveMaximum": 2**63}, ["1", "9223372036854775807"], ["0", "9223372036854775808"]),
    ({"minimum": 0, "maximum": 2**32 - 1}, ["4294967295"], ["4294967296"]),
    ({"minimum": -(2**31), "maximum": 2**31 - 1}, ["-2147483648", "2147483647"], ["-2147483649", "2147483648"]),
    ({"minimum": 5, "exclusiveMinimum": True}, ["6"], ["5"]),
    ({"minimum": 5, "exclusiveMinimum": False}, ["5"], ["4"]),
    ({"minimum": 3, "multipleOf": 3}, ["3", "9"], ["0", "4"]),
]


@pytest.mark.parametrize(("keywords", "valid", "invalid"), SCHEMAS)
def test_bounds_of_integers(
    guidance: GrammarCompiler, keywords: dict[str, Any], valid: list[str], invalid: list[str]
) -> None:
    text = json.dumps({"type": "integer", **keywords})
    for one in (*valid, *invalid):
        assert written(guidance.compile("json_schema", text)(), one) == (one in valid), one


@pytest.mark.parametrize(
    "keywords",
    [
        {"minimum": 0, "maximum": 2**64 - 1},
        {"minimum": -(2**63), "maximum": 2**63 - 1},
        {"minimum": -(2**63)},
        {"minimum": 2**62 + 1},
        {"maximum": 2**53 + 1},
        {"maximum": -(2**62)},
        {"maximum": 10**30},
    ],
)
@given(data=st.data())
@settings(deadline=None, max_examples=20)
def test_wide_integers_stay_within(guidance: GrammarCompiler, keywords: dict[str, Any], data: st.DataObject) -> None:
    schema = {"type": "integer", **keywords}
    make = guidance.compile("json_schema", json.dumps(schema))
    ends = [0, 2**53, 2**62, 2**63, 2**64, -(2**62), -(2**63), *keywords.values()]
    number = data.draw(st.sampled_from(ends)) + data.draw(st.integers(-2100, 2100))
    if not within(Decimal(number), Bounds.of(schema)):
        assert not written(make(), str(number))
    elif abs(number) < 2**53 - 2100:
        assert written(make(), str(number))


@given(limits=bounds, integer=st.booleans())
@settings(deadline=None, max_examples=300)
def test_lowered_bounds_move_inwards(limits: Bounds, integer: bool) -> None:
    """What llguidance reads, a float that it writes in its shortest form, is never beyond what the schema says."""
    schema: dict[str, Any] = {"type": "integer" if integer else "number"}
    for key, bound in (("inimum", limits.low), ("aximum", limits.high)):
        is_open = limits.open_low if key == "inimum" else limits.open_high
        if bound is not None:
            value = int(bound) if bound == int(bound) else float(bound)
            schema[("exclusiveM" if is_open else "m") + key] = value
    if Bounds.of(schema).empty:
        return
    try:
        low = lowered(schema)
    except GrammarUnsupported:
        assert any(abs(end) > 10**17 for end in (limits.low, limits.high) if end is not None)
        return
    found = Bounds.of({**low, "type": schema["type"]})
    wanted = Bounds.of(schema)
    assert wanted.low is None or (found.low is not None and found.low >= wanted.low)
    assert wanted.high is None or (found.high is not None and found.high <= wanted.high)


@pytest.mark.parametrize(("step", "valid", "invalid"), [(0.01, "0.07", "0.075"), (0.5, "1.5", "1.25"), (3, "-9", "4")])
def test_multiples(guidance: GrammarCompiler, step: float, valid: str, invalid: str) -> None:
    text = json.dumps({"type": "number", "minimum": -10, "maximum": 10, "multipleOf": step})
    assert written(guidance.compile("json_schema", text)(), valid)
    assert not written(guidance.compile("json_schema", text)(), invalid)


def test_a_step_of_too_many_digits_is_refused() -> None:
    with pytest.raises(GrammarUnsupported, match=r"'multipleOf' at \$\.properties\.a"):
        lowered(checked('{"type": "object", "properties": {"a": {"type": "number", "multipleOf": 1e-12}}}'))


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"enum": [2**53 + 1, 2**53, 3]}, ["9007199254740992", "3"], ["9007199254740993"]),
        ({"enum": [-(2**63), [2**64 - 1], 1.5]}, ["1.5"], ["-9223372036854775808", "[18446744073709551615]"]),
        ({"const": 2**62}, ["4611686018427387904"], ["4611686018427387905"]),
    ],
)
def test_constants_are_written_as_they_are_or_not_at_all(
    guidance: GrammarCompiler, schema: Any, valid: list[str], invalid: list[str]
) -> None:
    for text in (*valid, *invalid):
        assert written(guidance.compile("json_schema", json.dumps(schema))(), text) == (text in valid), text


@pytest.mark.parametrize("schema", [{"const": 2**53 + 1}, {"enum": [-(2**63)]}, {"const": {"a": [2**64]}}])
def test_constants_that_no_float_holds_are_refused(guidance: GrammarCompiler, schema: Any) -> None:
    with pytest.raises(GrammarUnsupported, match="so many digits"):
        guidance.compile("json_schema", json.dumps(schema))
