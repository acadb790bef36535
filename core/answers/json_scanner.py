"""Where does a JSON object or array end, and is it one so far? Told character by character."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBER_CHARS = frozenset("0123456789+-.eE")
_LITERALS = ("true", "false", "null")
_BLANKS = frozenset(" \t\n\r")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_LONGEST_NUMBER = 400
_DEEPEST = 200  # what every reader of JSON takes


class JsonScanner:
    """Follows one object or array, by the grammar of RFC 8259.

    `depth` counts the containers that are open, `in_string` and `in_key` say what the last character was part of, and
    `done` that the outermost container is closed.
    """

    __slots__ = ("_escape", "_expect", "_stack", "_token", "done", "in_key", "in_string")

    def __init__(self) -> None:
        self.done = False
        self.in_string = False
        self.in_key = False
        self._stack: list[str] = []
        self._expect = "value"
        self._token = ""  # a number or literal that is not over yet
        self._escape = 0  # characters an escape still takes, hexadecimal ones where more than one

    @property
    def depth(self) -> int:
        return len(self._stack)

    def step(self, char: str) -> bool:
        """Takes a character; False when the text is no JSON, and then for good."""
        if self.done:
            return False
        if self.in_string:
            return self._within_string(char)
        if self._token:
            if char in _NUMBER_CHARS or char.isalpha():
                return self._lengthen(char)
            if not self._whole_token():
                return False
            self._token = ""
            self._expect = "comma"
        return char in _BLANKS or self._structure(char)

    def _within_string(self, char: str) -> bool:
        if self._escape:
            return self._within_escape(char)
        if char == "\\":
            self._escape = -1
        elif char == '"':
            self.in_string = False
            self._expect = "colon" if self.in_key else "comma"
            self.in_key = False
        return char >= " "

    def _within_escape(self, char: str) -> bool:
        if self._escape > 0:
            self._escape -= 1
            return char in _HEX
        self._escape = 4 if char == "u" else 0
        return char == "u" or char in _ESCAPES

    def _lengthen(self, char: str) -> bool:
        self._token += char
        if self._token[0].isalpha():
            return any(literal.startswith(self._token) for literal in _LITERALS)
        return char in _NUMBER_CHARS and len(self._token) <= _LONGEST_NUMBER

    def _whole_token(self) -> bool:
        return self._token in _LITERALS or _NUMBER.fullmatch(self._token) is not None

    def _structure(self, char: str) -> bool:
        expect = self._expect
        if char in "}]":
            return self._close(char)
        if expect == "colon":
            self._expect = "value"
            return char == ":"
        if expect == "comma":
            self._expect = "key" if self._stack[-1] == "{" else "value"
            return char == ","
        if expect in ("key", "key or end"):
            self.in_string = self.in_key = True
            return char == '"'
        return self._value(char)

    def _value(self, char: str) -> bool:
        if char in "{[":
            self._stack.append(char)
            self._expect = "key or end" if char == "{" else "value or end"
            return len(self._stack) <= _DEEPEST
        if not self._stack:
            return False
        if char == '"':
            self.in_string = True
            return True
        return (char in "tfn" or char in "-0123456789") and self._lengthen(char)

    def _close(self, char: str) -> bool:
        wanted = {"{": "}", "[": "]"}[self._stack[-1]] if self._stack else ""
        ends = {"}": ("key or end", "comma"), "]": ("value or end", "comma")}[char]
        if char != wanted or self._expect not in ends:
            return False
        self._stack.pop()
        self._expect = "comma"
        self.done = not self._stack
        return True
