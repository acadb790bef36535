"""A tool call that is written as a JSON object, given while it is being written."""

from __future__ import annotations

import re
from collections.abc import Container

from maxserve.plugins.api.common.json_text import JsonText, read_value

_ARGUMENTS = ("arguments", "parameters")
_USUAL = frozenset({"name", "id", "type", *_ARGUMENTS})
_OBJECT_TEXT = re.compile(r"""["'](\s|\\[nrt])*\{""")  # an object that is written as a JSON text
_NO_TEXT = re.compile(r"""["'](\s|\\[nrt])*(\\|n(ul?l?)?|N(on?e?)?)?\s*["']?""")  # or nothing, so far


class CallText:
    """Follows `{"name": …, "arguments": {…}}`; the arguments may also be called parameters, and come first.

    `declared`: the names that count, and then no member but the usual ones is let pass, so that an object which is
    no call is known at its first member; None takes any name. A call is `ready` once its name is known and its
    arguments have begun, or it is over without any: only then is it certain enough to be given. What is given of the
    arguments is as it was written: an object, or the JSON text of one.
    """

    def __init__(self, declared: Container[str] | None = None) -> None:
        self.name = ""
        self.id = ""
        self._declared = declared
        self._scanner = JsonText()
        self._key = ""  # raw, with quotes, while it is read
        self._member: str | None = None  # whose value is being read
        self._value = ""  # raw text of a name or id
        self._fresh: list[str] = []  # of the arguments, not taken yet
        self._arguments = "absent"
        self._alone = False

    @classmethod
    def of(cls, name: str, call_id: str = "") -> CallText:
        """Follows the arguments of a call to `name` alone."""
        call = cls()
        for char in '{"arguments":':
            call.step(char)
        call.name, call.id, call._alone = name, call_id, True
        return call

    @property
    def done(self) -> bool:
        return self._scanner.done or (self._alone and self._arguments == "whole")

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
                if self._member is not None and not self._end_member():  # the comma is missing
                    return False
                self._key += char
                return True
            return self._in_value(char)
        if scanner.done or (outside == 1 and char == "," and not in_string):
            return self._end_member()
        if self._member is None:
            return char != ":" or self._begin_member()
        return self._in_value(char)

    def _begin_member(self) -> bool:
        self._member, self._key, self._value = read_value(self._key), "", ""
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
        if self._arguments == "absent" and not char.isspace():
            if char in "\"'" or self._value:
                return self._in_text(char)
            if char == "{":
                self._arguments = "open"
            else:
                return char in "nulNoe"  # null: there are none
        if self._arguments == "open":
            self._fresh.append(char)
            if self._scanner.depth == 1 and not self._scanner.in_string:
                self._arguments = "whole"
        return True

    def _in_text(self, char: str) -> bool:
        """The beginning of a string: it may be the text of an object, of nothing, or no arguments at all."""
        self._value += char
        if _OBJECT_TEXT.match(self._value):
            self._fresh.append(self._value)
            self._arguments = "open" if self._scanner.in_string else "whole"
        return self._arguments != "absent" or _NO_TEXT.fullmatch(self._value) is not None

    def _end_member(self) -> bool:
        member, self._member = self._member, None
        if member in ("name", "id"):
            value = read_value(self._value)
            if not isinstance(value, str):
                return False
            if member == "name" and not self._acceptable(value):
                return False
            setattr(self, member, value)
        return not self._scanner.done or bool(self.name)

    def _acceptable(self, name: str) -> bool:
        return (
            name.isprintable() and name != "" and not self.name and (self._declared is None or name in self._declared)
        )
