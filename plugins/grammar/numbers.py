"""Bounds of numbers in schemas: exact, whatever their digits, and as regular expressions."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import msgspec

FRACTION = 8  # digits after the point that are written beside a bound, or as many as the bound has
WHOLE = 15  # digits before the point where there is no bound


def decimal_of(value: Any) -> Decimal | None:
    """A number of a JSON text as it stood there, None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    found = Decimal(value) if isinstance(value, int) else Decimal(repr(value))
    return found if found.is_finite() else None


class Bounds(msgspec.Struct, frozen=True):
    """What a number must lie between; `open_low` and `open_high`: the bound itself is not valid."""

    low: Decimal | None = None
    high: Decimal | None = None
    open_low: bool = False
    open_high: bool = False
    integer: bool = False

    @classmethod
    def of(cls, schema: dict[str, Any]) -> Bounds:
        """The bounds that a schema's keywords give to numbers; those of integers are whole, and not open."""
        types = schema.get("type", ())
        types = {types} if isinstance(types, str) else set(types)
        low, above = decimal_of(schema.get("minimum")), decimal_of(schema.get("exclusiveMinimum"))
        high, below = decimal_of(schema.get("maximum")), decimal_of(schema.get("exclusiveMaximum"))
        open_low = above is not None and (low is None or above >= low)
        open_high = below is not None and (high is None or below <= high)
        found = cls(above if open_low else low, below if open_high else high, open_low, open_high)
        return found.whole() if "integer" in types and "number" not in types else found

    def whole(self) -> Bounds:
        """The same of integers alone."""
        low = None if self.low is None else math.floor(self.low) + 1 if self.open_low else math.ceil(self.low)
        high = None if self.high is None else math.ceil(self.high) - 1 if self.open_high else math.floor(self.high)
        return Bounds(_exact(low), _exact(high), integer=True)

    @property
    def empty(self) -> bool:
        if self.low is None or self.high is None:
            return False
        return self.low > self.high or (self.low == self.high and (self.open_low or self.open_high))

    def has(self, number: Decimal) -> bool:
        """Whether a number is within."""
        return not self.apart(Bounds(number, number))

    def apart(self, other: Bounds) -> bool:
        """Whether no number is within both."""
        return self._below(other) or other._below(self)

    def _below(self, other: Bounds) -> bool:
        if self.high is None or other.low is None:
            return False
        return self.high < other.low or (self.high == other.low and (self.open_high or other.open_low))

    # --- as expressions -----------------------------------------------------------------------------------------

    def expression(self) -> str:
        """The texts of such numbers, without exponents: of integers all, of others those with FRACTION digits or so."""
        negative = self._mirrored()._magnitudes(zero=False)
        return f"(?:{'|'.join([*(f'-{each}' for each in negative), *self._magnitudes(zero=True)])})"

    def _mirrored(self) -> Bounds:
        low, high = None if self.high is None else -self.high, None if self.low is None else -self.low
        return Bounds(low, high, self.open_high, self.open_low, self.integer)

    def _magnitudes(self, *, zero: bool) -> list[str]:
        """Those above 0, and 0 itself with `zero`."""
        if self.high is not None and (self.high < 0 or (self.high == 0 and not zero)):
            return []
        low, open_low = self.low, self.open_low
        if low is None or low < 0 or (low == 0 and not zero):
            low, open_low = Decimal(0), not zero
        if not self.integer:
            return _decimals(low, open_low, self.high, self.open_high)
        return [_integers(int(low) + open_low, None if self.high is None else int(self.high))]


def _exact(value: int | None) -> Decimal | None:
    return None if value is None else Decimal(value)


# --- whole numbers from 0 on -----------------------------------------------------------------------------------


def _integers(low: int, high: int | None) -> str:
    """Whole numbers from `low` to `high`, or of WHOLE digits and more where there is no `high`."""
    last = 10 ** max(len(str(low)), WHOLE) - 1 if high is None else high
    ranges = []
    while low <= last:
        whole = low == 10 ** (len(str(low)) - 1)  # the first of as many digits
        size = max(len(str(low)), len(str(last + 1)) - 1 if whole else 0)  # digits up to which all numbers are within
        top = min(last, 10**size - 1)
        more = f"[0-9]{{{len(str(low)) - 1},{size - 1}}}"
        ranges.append(f"[1-9]{more}" if whole and top == 10**size - 1 else _same_length(str(low), str(top)))
        low = top + 1
    return f"(?:{'|'.join(ranges)})" if len(ranges) > 1 else ranges[0]


def _same_length(low: str, high: str) -> str:
    """Digits from `low` to `high`, which are as many."""
    if low == high:
        return low
    if len(low) == 1:
        return f"[{low}-{high}]"
    if low[0] == high[0]:
        return low[0] + _same_length(low[1:], high[1:])
    rest = len(low) - 1
    parts, first, last = [], int(low[0]), int(high[0])
    if low[1:] != "0" * rest:
        parts.append(low[0] + _same_length(low[1:], "9" * rest))
        first += 1
    if high[1:] != "9" * rest:
        parts.append(high[0] + _same_length("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        parts.append(f"{_digits(first, last)}[0-9]{{{rest}}}")
    return f"(?:{'|'.join(parts)})"


def _digits(first: int, last: int) -> str:
    return str(first) if first == last else f"[{first}-{last}]"


# --- numbers with a fraction -----------------------------------------------------------------------------------


def _decimals(low: Decimal, open_low: bool, high: Decimal | None, open_high: bool) -> list[str]:
    """Numbers from 0 on between `low` and `high`."""
    floor, under = _split(low)
    if high is None:
        upper = _integers(floor + 1, None) + _fraction(_any())
        return [*_with(floor, _above(under, open_low)), upper]
    top, over = _split(high)
    if floor == top:
        return _with(floor, _between(under, open_low, over, open_high))
    parts = _with(floor, _above(under, open_low))
    if top > floor + 1:
        parts.append(_integers(floor + 1, top - 1) + _fraction(_any()))
    return parts + _with(top, _below(over, open_high))


def _split(number: Decimal) -> tuple[int, str]:
    """The whole part, and the digits after the point without zeros at their end."""
    return int(number), format(number, "f").partition(".")[2].rstrip("0")


Fractions = tuple[bool, list[str]]  # whether there may be none, and expressions of the digits where there are some


def _with(whole: int, fractions: Fractions) -> list[str]:
    empty, some = fractions
    if not some:
        return [str(whole)] if empty else []
    return [f"{whole}{_fraction(fractions)}"]


def _fraction(fractions: Fractions) -> str:
    empty, some = fractions
    return rf"(?:\.(?:{'|'.join(some)})){'?' if empty else ''}"


def _any() -> Fractions:
    return True, [f"[0-9]{{1,{FRACTION}}}"]


def _more() -> str:
    return f"[0-9]{{0,{FRACTION - 1}}}"


def _above(digits: str, is_open: bool) -> Fractions:
    """Fractions of at least 0.`digits`."""
    if not digits:
        return (True, [f"[0-9]{{1,{FRACTION}}}"]) if not is_open else (False, [f"0{{0,{FRACTION - 1}}}[1-9]{_more()}"])
    first, rest = int(digits[0]), digits[1:]
    empty, tails = _above(rest, is_open)
    some = [f"{first}{tail}" for tail in tails] + ([str(first)] if empty else [])
    if first < 9:
        some.append(f"{_digits(first + 1, 9)}{_more()}")
    return False, some


def _below(digits: str, is_open: bool) -> Fractions:
    """Fractions of at most 0.`digits`."""
    if not digits:
        return (False, []) if is_open else (True, [f"0{{1,{FRACTION}}}"])
    first, rest = int(digits[0]), digits[1:]
    empty, tails = _below(rest, is_open)
    some = [f"{first}{tail}" for tail in tails] + ([str(first)] if empty else [])
    if first > 0:
        some.append(f"{_digits(0, first - 1)}{_more()}")
    return True, some


def _between(low: str, open_low: bool, high: str, open_high: bool) -> Fractions:
    """Fractions from 0.`low` to 0.`high`, which are not empty together."""
    if not low:
        if not high:
            return (True, [f"0{{1,{FRACTION}}}"]) if not (open_low or open_high) else (False, [])
        if not open_low:
            return _below(high, open_high)
    if not high:
        return False, []
    bottom, top = int(low[0]) if low else 0, int(high[0])
    if bottom == top:
        empty, tails = _between(low[1:], open_low, high[1:], open_high)
        return False, [f"{top}{tail}" for tail in tails] + ([str(top)] if empty else [])
    some = _ends(bottom, _above(low[1:], open_low)) + _ends(top, _below(high[1:], open_high))
    if bottom + 1 < top:
        some.append(f"{_digits(bottom + 1, top - 1)}{_more()}")
    return False, some


def _ends(digit: int, fractions: Fractions) -> list[str]:
    empty, tails = fractions
    return [f"{digit}{tail}" for tail in tails] + ([str(digit)] if empty else [])
