"""What does a tool call say that is written as a JSON object? Told while it is being written."""

from __future__ import annotations

import json
from collections.abc import Container

from maxserve.core.answers.json_scanner import JsonScanner

_ARGUMENTS = ("arguments", "parameters")
_USUAL = frozenset({"name", "id", "type", *_ARGUMENTS})


class CallText:
    """Follows `{"name": …, "arguments": {…}}`; the arguments may also be called parameters, and come first.

    `declared`: the names that count, and then no member but the usual ones is let pass, so that an object which is
    no call is known at its first member; None takes any name. A call is `ready` once its name is known and its
    arguments have begun, or it is over without any: only then is it certain enough to be told.
    """

    def __init__(self, declared: Container[str] | None = None) -> None:
        self.name = ""
        self.id = ""
        self._declared = declared
        self._scanner = JsonScanner()
        self._key = ""  # raw, with quotes, while it is read
        self._member: str | None = None  # whose value is being read
        self._value = ""  # raw text of a name or id
        self._fresh: list[str] = []  # of the arguments, not taken yet
        self._arguments = "absent"

    @property
    def done(self) -> bool:
        return self._scanner.done

    @property
    def ready(self) -> bool:
        return bool(self.name) and (self._arguments != "absent" or self.done)

    def take(self) -> str:
        """The text of the arguments that came since the last call."""
        if self.done and self._arguments == "absent":
            self._arguments = "whole"
            return "{}"
        fresh = "".join(self._fresh)
        self._fresh.clear()
        return fresh

    def step(self, char: str) -> bool:
        """Takes a character; False when this is no call, or no JSON."""
        scanner = self._scanner
        outside, in_key, in_string = scanner.depth, scanner.in_key, scanner.in_string
        if not scanner.step(char):
            return False
        if outside == 0:
            return char == "{"
        if in_key or scanner.in_key:
            if outside == 1:
                self._key += char
                return True
            return self._in_value(char)
        if self.done or (outside == 1 and char == "," and not in_string):
            return self._end_member()
        if self._member is None:
            return char != ":" or self._begin_member()
        return self._in_value(char)

    def _begin_member(self) -> bool:
        self._member, self._key, self._value = json.loads(self._key), "", ""
        if self._member in _ARGUMENTS and self._arguments != "absent":
            return False
        return self._declared is None or self._member in _USUAL

    def _in_value(self, char: str) -> bool:
        if self._member in _ARGUMENTS:
            return self._in_arguments(char)
        if self._member in ("name", "id"):
            self._value += char
        return True

    def _in_arguments(self, char: str) -> bool:
        if self._arguments == "absent":
            if char.isspace():
                return True
            if char in "nul":  # null: there are none
                return True
            if char != "{":
                return False
            self._arguments = "open"
        if self._arguments == "open":
            self._fresh.append(char)
            if self._scanner.depth == 1:
                self._arguments = "whole"
        return True

    def _end_member(self) -> bool:
        member, self._member = self._member, None
        if member in ("name", "id"):
            value = json.loads(self._value)
            if not isinstance(value, str):
                return False
            if member == "name" and not self._acceptable(value):
                return False
            setattr(self, member, value)
        return not self.done or bool(self.name)

    def _acceptable(self, name: str) -> bool:
        return (
            name.isprintable() and name != "" and not self.name and (self._declared is None or name in self._declared)
        )
