"""Bounds of numbers: as expressions for automata, and as llguidance keeps them, against exact arithmetic."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.grammar import GrammarCompiler
from maxserve.plugins.grammar.lowering import lowered
from maxserve.plugins.grammar.numbers import Bounds, decimal_of
from maxserve.plugins.grammar.schema import checked
from maxserve.plugins.grammar.schema_regex import schema_regex
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


wide = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.builds(int.__add__, st.sampled_from([0, 2**53, 2**62, 2**63, 2**64, -(2**53), -(2**63)]), st.integers(-9, 9)),
)


@given(ends=st.tuples(wide, wide).map(sorted), numbers=st.lists(wide, max_size=20), is_open=st.booleans())
@settings(deadline=None, max_examples=60)
def test_wide_integers_are_exact(guidance: GrammarCompiler, ends: list[int], numbers: list[int], is_open: bool) -> None:
    low, high = ends
    keywords = (
        {"exclusiveMinimum": low - 1, "exclusiveMaximum": high + 1} if is_open else {"minimum": low, "maximum": high}
    )
    expect_exactly(guidance, keywords, numbers)
    expression = re.compile(schema_regex({"type": "integer", **keywords}))  # what the back end of automata compiles
    for number in {*numbers, low, high, low - 1, high + 1}:
        assert bool(expression.fullmatch(str(number))) == (low <= number <= high), (number, keywords)


@given(end=wide, numbers=st.lists(wide, max_size=20), is_low=st.booleans())
@settings(deadline=None, max_examples=60)
def test_one_wide_bound_is_exact(guidance: GrammarCompiler, end: int, numbers: list[int], is_low: bool) -> None:
    expect_exactly(guidance, {"minimum" if is_low else "maximum": end}, numbers)


@pytest.mark.parametrize(("low", "high"), [(0, 2**64 - 1), (-(2**63), 2**63 - 1)])
def test_properties_of_64_bits_in_an_automaton(automata: GrammarCompiler, low: int, high: int) -> None:
    member = {"type": "integer", "minimum": low, "maximum": high}
    schema = {"type": "object", "properties": {"a": member}, "required": ["a"]}
    make = automata.compile("json_schema", json.dumps({**schema, "additionalProperties": False}))
    for number in (low - 1, low, 2**62 + 1, high, high + 1):
        assert written(make(), f'{{"a":{number}}}') == (low <= number <= high), number


def expect_exactly(compiler: GrammarCompiler, keywords: dict[str, int], numbers: list[int]) -> None:
    schema = {"type": "integer", **keywords}
    make, limits = compiler.compile("json_schema", json.dumps(schema)), Bounds.of(schema)
    for number in {*numbers, *(end + step for end in keywords.values() for step in (-2, -1, 0, 1, 2))}:
        assert written(make(), str(number)) == within(Decimal(number), limits), (number, keywords)


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
        assert any(abs(end) > (2**53 if integer else 10**17) for end in (limits.low, limits.high) if end is not None)
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
        ({"enum": [2**53 + 1, 2**53, 3]}, ["9007199254740992", "9007199254740993", "3"], ["9007199254740994"]),
        ({"enum": [-(2**63), [2**64 - 1], 1.5]}, ["1.5", "-9223372036854775808", "[18446744073709551615]"], ["1"]),
        ({"const": 2**62}, ["4611686018427387904"], ["4611686018427387905"]),
        ({"const": 2**53 + 1}, ["9007199254740993"], ["9007199254740992"]),
        ({"const": {"a": [2**64]}}, ['{"a":[18446744073709551616]}'], ['{"a":[18446744073709551615]}']),
    ],
)
def test_constants_are_written_as_they_are(
    guidance: GrammarCompiler, schema: Any, valid: list[str], invalid: list[str]
) -> None:
    for text in (*valid, *invalid):
        assert written(guidance.compile("json_schema", json.dumps(schema))(), text) == (text in valid), text


def test_constants_that_no_float_holds_beside_bounds(guidance: GrammarCompiler) -> None:
    make = guidance.compile("json_schema", json.dumps({"enum": [2**53 + 1, 2**53 + 3], "minimum": 2**53 + 2}))
    assert written(make(), str(2**53 + 3))
    assert not written(make(), str(2**53 + 1))


def test_constants_that_no_float_holds_are_refused_beside_what_is_not_written_here(guidance: GrammarCompiler) -> None:
    with pytest.raises(GrammarUnsupported, match=r"'enum' at \$ is not supported beside 'minLength'"):
        guidance.compile("json_schema", json.dumps({"enum": [2**53 + 1, "a"], "minLength": 1}))
