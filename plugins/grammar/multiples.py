"""Multiples of a whole number within bounds as terminals of Lark, exact whatever their digits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from math import gcd
from typing import Any

from maxserve.plugins.grammar.numbers import Bounds, decimal_of

MOST_REMAINDERS = 2_000  # states of an automaton that divides
MOST_LISTED = 500  # numbers that need none


def whole_step(step: Any) -> int:
    """The number whose multiples the whole multiples of `step` are: 3 for 1.5."""
    return Fraction(decimal_of(step) or 1).numerator


def is_multiple(value: Any, step: Any) -> bool:
    return Fraction(decimal_of(value) or 0) % Fraction(decimal_of(step) or 1) == 0


class Multiples:
    """Gives terminals names; those of one step are shared by all bounds."""

    def __init__(self) -> None:
        self.terminals: dict[str, str] = {}  # bodies by names

    def can(self, low: int, high: int, step: int) -> bool:
        """Whether `within` gives a terminal that is not too large."""
        return high // step - low // step < MOST_LISTED or _count(step, len(str(max(-low, high)))) <= MOST_REMAINDERS

    def within(self, low: int, high: int, step: int) -> str:
        """The body of a terminal for the multiples from `low` to `high`, of which there is one."""
        first, last = -(-low // step), high // step
        if last - first < MOST_LISTED:
            return " | ".join(f'"{number * step}"' for number in range(first, last + 1))
        negative = [f'"-" {each}' for each in self._from_zero(max(1, -high), -low, step)]
        return " | ".join([*negative, *self._from_zero(max(0, low), high, step)])

    def _from_zero(self, low: int, high: int, step: int) -> Iterator[str]:
        for first, left in _blocks(low, high):
            remainder = -first % step
            if remainder < 10**left:
                digits = str(first)[: len(str(first)) - left]
                yield f'"{digits}"' + (f" {self._remainder(step, left, remainder)}" if left else "")

    def _remainder(self, step: int, digits: int, remainder: int) -> str:
        """The terminal of so many digits, zeros in front as well, whose number leaves `remainder`."""
        name = f"M{step}_{digits}_{remainder}"
        if name not in self.terminals:
            self.terminals[name] = ""  # it comes before those that it names
            following: dict[int, str] = {}
            for digit in range(10):
                rest = (remainder - digit * 10 ** (digits - 1)) % step
                if rest < 10 ** (digits - 1):
                    following[rest] = following.get(rest, "") + str(digit)
            self.terminals[name] = " | ".join(
                f"/[{first}]/" + (f" {self._remainder(step, digits - 1, rest)}" if digits > 1 else "")
                for rest, first in following.items()
            )
        return name


def _count(step: int, digits: int) -> int:
    """How many states tell what is left of `digits` digits, about."""
    return sum(min(step, 10**left) // gcd(10**left, step) for left in range(1, digits + 1))


def _blocks(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Ranges from `low` to `high` as their first number and how many of its last digits are free, all zeros there."""
    while low <= high:
        left = 0
        while low % 10 ** (left + 1) == 0 and 10 ** (left + 1) <= low and low + 10 ** (left + 1) - 1 <= high:
            left += 1
        yield low, left
        low += 10**left


def ends(bounds: Bounds, digits: int) -> tuple[int, int]:
    """The lowest and the highest number within `bounds`, with at most so many digits where there is no bound."""
    known = [len(str(abs(int(end)))) for end in (bounds.low, bounds.high) if end is not None]
    most = Decimal(10 ** max(digits, *known, 0) - 1)
    return int(-most if bounds.low is None else bounds.low), int(most if bounds.high is None else bounds.high)
