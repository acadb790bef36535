"""Expressions in rank_pattern and alpha_pattern, matched in bounded time.

They come with the adapter, and are not to be trusted. Python's `re` can take years for one, so all positions at which
a part of an expression can end are followed at once, and counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from maxserve.interfaces.errors import ModelError

LONGEST = 256  # characters of an expression
MOST_STEPS = 1_000_000  # characters of names that the expressions of an adapter are compared with

_PLAIN = re.compile(r"[\w.-]*")  # what `re` matches in no more steps than there are characters
_CHARACTER = re.compile(r"\\[dDwWsS]|\\[^\w]|\[\^?\]?(?:\\.|[^\]\\])*\]|[^\\()\[|*+?{}^$]", re.DOTALL)
_COUNT = re.compile(r"([*+?]|\{(\d{0,3})(,?)(\d{0,3})\})\??(?![*+?{])")

Places: TypeAlias = set[int]
Follow: TypeAlias = Callable[[str, Places], Places]


class NoExpression(ValueError):
    """What is no expression, or none of those that are taken."""


class Matcher(msgspec.Struct):
    """Matches names with expressions, within a number of steps for all of them together."""

    steps: int = MOST_STEPS
    _read: dict[str, Follow] = msgspec.field(default_factory=dict)

    def matches(self, key: str, name: str) -> bool:
        """Whether the name, or the rest of it behind a full stop, is the expression `key`; ModelError for a bad one."""
        if _PLAIN.fullmatch(key):
            return re.match(rf"(.*\.)?({key})$", name) is not None
        try:
            if key not in self._read:
                self._read[key] = _Reader(key, self._spend).whole()
            begins = {0, *(place + 1 for place, character in enumerate(name) if character == ".")}
            return len(name) in self._read[key](name, begins)
        except (NoExpression, re.error) as error:
            raise ModelError(f"{key[:80]!r} of rank_pattern or alpha_pattern is no expression: {error}") from error

    def _spend(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise ModelError(
                f"the expressions of rank_pattern and alpha_pattern take more than {MOST_STEPS} steps; write the names "
                "of modules"
            )


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str, spend: Callable[[int], None]) -> None:
        if len(text) > LONGEST:
            raise NoExpression(f"it has {len(text)} characters, and at most {LONGEST} are taken")
        self._text, self._at, self._spend = text, 0, spend

    def whole(self) -> Follow:
        found = self._either()
        if self._at < len(self._text):
            raise NoExpression(f"the {self._text[self._at]!r} at character {self._at + 1} has no beginning")
        return found

    def _either(self) -> Follow:
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())

        def follow(text: str, at: Places) -> Places:
            self._spend(len(options))
            return set().union(*(option(text, at) for option in options))

        return follow

    def _sequence(self) -> Follow:
        parts: list[Follow] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts.append(self._anchor() or self._counted(self._part()))

        def follow(text: str, at: Places) -> Places:
            for part in parts:
                if not at:
                    break
                at = part(text, at)
            return at

        return follow

    def _anchor(self) -> Follow | None:
        if not self._take("^") and not self._take("$"):
            return None
        at_start = self._text[self._at - 1] == "^"

        def follow(text: str, at: Places) -> Places:
            self._spend(1)
            return at & {0 if at_start else len(text)}

        return follow

    def _part(self) -> Follow:
        if self._take("(?:") or (not self._text.startswith("(?", self._at) and self._take("(")):
            inner = self._either()
            if not self._take(")"):
                raise NoExpression("a bracket is not closed")
            return inner
        found = _CHARACTER.match(self._text, self._at)
        if found is None:
            raise NoExpression(f"what stands at character {self._at + 1} is not taken here")
        self._at = found.end()
        return self._character(re.compile(found[0]))

    def _character(self, one: re.Pattern[str]) -> Follow:
        def follow(text: str, at: Places) -> Places:
            self._spend(len(at))
            return {place + 1 for place in at if place < len(text) and one.match(text[place])}

        return follow

    def _counted(self, part: Follow) -> Follow:
        found = _COUNT.match(self._text, self._at)
        if found is None:
            return part
        self._at = found.end()
        least, most = _limits(found)
        return self._repeated(part, least, most)

    def _repeated(self, part: Follow, least: int, most: int | None) -> Follow:
        def follow(text: str, at: Places) -> Places:
            for _ in range(least):
                self._spend(1)
                at = part(text, at)
            found, new, count = set(at), at, least
            while new and (most is None or count < most):
                self._spend(1)
                new = part(text, new) - found
                found |= new
                count += 1
            return found

        return follow

    def _take(self, text: str) -> bool:
        taken = self._text.startswith(text, self._at)
        self._at += len(text) if taken else 0
        return taken


def _limits(found: re.Match[str]) -> tuple[int, int | None]:
    """The least and the largest count, None: any."""
    if found[1] in ("*", "+", "?"):
        return int(found[1] == "+"), 1 if found[1] == "?" else None
    least, comma, most = found[2], found[3], found[4]
    if not (least or most):
        raise NoExpression(f"{found[0]!r} is no count")
    return int(least or 0), int(most) if most else (None if comma else int(least))
