"""A JSON object or array while it is written: where it ends, and its text with what models get wrong put right."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from maxserve.plugins.api.common.argument_types import ArgumentType

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PLAIN = re.compile("[^\"'\\\\\x00-\x1f\ud800-\udfff]+")
_NUMBER_CHARS = frozenset("0123456789+-._eE")
_WORDS: Mapping[str, str] = {
    **{word: word for word in ("true", "false", "null")},
    "True": "true",
    "False": "false",
    "None": "null",
    **dict.fromkeys(("NaN", "Infinity", "-Infinity", "undefined"), "null"),  # what JSON has no word for
}
_BLANKS = frozenset(" \t\n\r")
_ESCAPES = frozenset('"\\/bfnrt')
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSERS = {"{": "}", "[": "]"}
_REPLACEMENT = "\\ufffd"
_LONGEST_TOKEN = 400
_DEEPEST = 200  # what every reader of JSON takes


class JsonText:
    """Follows one object or array, a character at a time, and writes it as RFC 8259 has it.

    Put right are Python's spellings and quotes, line breaks in strings, escapes that JSON has not, lone surrogates,
    commas too many or too few, brackets that were not closed within others, and, where a `kind` is given, strings and
    scalars by its types. Text that is right stays as it is. `depth` counts the containers that are open, `in_string`
    and `in_key` say what the last character was part of, and `done` that the outermost container is closed.
    """

    def __init__(self, kind: ArgumentType | None = None) -> None:
        self.done = False
        self.in_string = False
        self.in_key = False
        self._out: list[str] = []
        self._held: list[str] = []  # a comma, a key and a colon, given with the value after them
        self._open: list[str] = []
        self._expect = "value"
        self._token = ""  # a number or word that is not over yet
        self._quote = ""
        self._escape = ""  # as far as it came
        self._surrogate = ""  # the first half of a pair
        self._types = _Path(kind) if kind is not None else None
        self._text: list[str] | None = None  # a string that its type does not admit, until it is whole

    @property
    def depth(self) -> int:
        return len(self._open)

    def take(self) -> str:
        """What was written since the last call."""
        written = "".join(self._out)
        self._out.clear()
        return written

    def feed(self, text: str) -> bool:
        """Takes text, as `step` does; what comes after the end is left out."""
        at = 0
        while at < len(text) and not self.done:
            plain = _PLAIN.match(text, at) if self.in_string and not self._escape and not self._surrogate else None
            if plain:
                self._put(plain[0])
                at = plain.end()
            elif self.step(text[at]):
                at += 1
            else:
                return False
        return True

    def step(self, char: str) -> bool:
        """Takes a character; False when the text cannot be understood as JSON, and then for good."""
        if self.done:
            return False
        if self.in_string:
            return self._within_string(char)
        if self._token:
            if char.isalnum() or char in _NUMBER_CHARS:
                return self._lengthen(char)
            if not self._end_token():
                return False
        if char in _BLANKS:
            (self._held if self._held else self._out).append(char)
            return True
        return self._structure(char)

    def close(self) -> str:
        """What completes the text, wherever it broke off: members without a value are left out."""
        if self.in_string and not self.in_key:
            self._end_surrogate()
            self._end_string()
        if self._token:
            self._complete_token()
        if not self.done:
            self._out += [_CLOSERS[opener] for opener in reversed(self._open)]
            self._open.clear()
        return self.take()

    # --- strings ------------------------------------------------------------------------------------------------

    def _within_string(self, char: str) -> bool:
        if self._escape:
            return self._within_escape(char)
        if char == "\\":
            self._escape = char
            return True
        self._end_surrogate()
        if char == self._quote:
            self._end_string()
        elif char == '"':  # between single quotes
            self._put('\\"')
        elif char < " ":
            self._put(json.dumps(char)[1:-1])
        else:
            self._put(_REPLACEMENT if "\ud800" <= char <= "\udfff" else char)
        return True

    def _within_escape(self, char: str) -> bool:
        escape = self._escape + char
        if escape == "\\u" or (len(escape) > 2 and char in _HEX):
            self._escape = escape
            if len(escape) == 6:
                self._escape = ""
                self._unicode(escape)
            return True
        self._escape = ""
        self._end_surrogate()
        if len(escape) == 2 and char in _ESCAPES:
            self._put(escape)
        elif escape == "\\'":
            self._put("'")
        else:  # a backslash that should have been two
            self._put("\\" + escape[:-1])
            return self._within_string(char)
        return True

    def _unicode(self, escape: str) -> None:
        code = int(escape[2:], 16)
        if 0xDC00 <= code <= 0xDFFF:
            self._put(self._surrogate + escape if self._surrogate else _REPLACEMENT)
            self._surrogate = ""
            return
        self._end_surrogate()
        if 0xD800 <= code <= 0xDBFF:
            self._surrogate = escape
        else:
            self._put(escape)

    def _end_surrogate(self) -> None:
        if self._surrogate:
            self._surrogate = ""
            self._put(_REPLACEMENT)

    def _begin_string(self, quote: str) -> bool:
        self.in_string, self._quote = True, quote
        if self._types is not None and not self.in_key and not self._types.admits_strings:
            self._text = []
        self._put('"')
        return True

    def _end_string(self) -> None:
        self._escape = ""
        self._put('"')
        self.in_string = False
        self._expect = "colon" if self.in_key else "comma"
        if self._text is not None and self._types is not None:
            text, self._text = "".join(self._text), None
            self._write(self._types.of_string(text))
        elif self.in_key and self._types is not None:
            self._types.key = json.loads("".join(self._held).lstrip(", \t\r\n"))
        self.in_key = False

    def _put(self, text: str) -> None:
        """Writes a piece of a string."""
        if self.in_key:
            self._held.append(text)
        elif self._text is not None:
            self._text.append(text)
        else:
            self._write(text)

    def _write(self, text: str) -> None:
        """Writes a piece of a value, and what was held back before it."""
        self._out += self._held
        self._held.clear()
        self._out.append(text)

    # --- numbers and words --------------------------------------------------------------------------------------

    def _lengthen(self, char: str) -> bool:
        self._token += char
        if any(word.startswith(self._token) for word in _WORDS):
            return True
        return len(self._token) <= _LONGEST_TOKEN and all(each in _NUMBER_CHARS for each in self._token)

    def _end_token(self) -> bool:
        written = _token(self._token)
        self._token, self._expect = "", "comma"
        if written:
            self._write(written if self._types is None else self._types.of_scalar(written))
        return bool(written)

    def _complete_token(self) -> None:
        """Ends a token that may not be whole: a word as it must go on, a number without what came too little."""
        words = [word for word in _WORDS if word.startswith(self._token)] if self._token.isalpha() else []
        self._token = words[0] if words else self._token.rstrip("+-._eE")
        if self._token:
            self._end_token()

    # --- containers ---------------------------------------------------------------------------------------------

    def _structure(self, char: str) -> bool:
        expect = self._expect
        if char in "}]":
            return self._close_container(char)
        if expect == "comma" and char in "\"'":  # the comma is missing
            self._comma()
            expect = self._expect
        if expect == "colon":
            self._expect = "value"
            self._held.append(char)
            return char == ":"
        if expect == "comma":
            self._comma()
            return char == ","
        if char == "," and self._held:  # one comma too many
            return True
        if expect in ("key", "key or end"):
            self.in_key = True
            return char in "\"'" and self._begin_string(char)
        return self._value(char)

    def _comma(self) -> None:
        self._held.append(",")
        self._expect = "key" if self._open[-1] == "{" else "value"
        if self._types is not None:
            self._types.next_item()

    def _value(self, char: str) -> bool:
        if char in "{[":
            self._write(char)
            self._open.append(char)
            self._expect = "key or end" if char == "{" else "value or end"
            if self._types is not None:
                self._types.enter(char)
            return len(self._open) <= _DEEPEST
        if not self._open:
            return False
        if char in "\"'":
            return self._begin_string(char)
        return self._lengthen(char)

    def _close_container(self, char: str) -> bool:
        """Also of those within that were left open."""
        if char not in [_CLOSERS[opener] for opener in self._open]:
            return False
        self._held.clear()
        closer = ""
        while closer != char:
            closer = _CLOSERS[self._open.pop()]
            self._out.append(closer)
            if self._types is not None:
                self._types.leave()
        self._expect = "comma"
        self.done = not self._open
        return True


class _Path:
    """The types of the containers that are open, outermost first, and of the value that comes next."""

    def __init__(self, kind: ArgumentType) -> None:
        self._next: ArgumentType | None = kind
        self._open: list[ArgumentType] = []
        self._index: list[int | None] = []  # of the item that comes next; None in objects
        self.key = ""

    def enter(self, opener: str) -> None:
        self._open.append(self._kind)
        self._index.append(0 if opener == "[" else None)
        self._next = None

    def leave(self) -> None:
        self._open.pop()
        self._index.pop()

    def next_item(self) -> None:
        if (index := self._index[-1]) is not None:
            self._index[-1] = index + 1

    @property
    def _kind(self) -> ArgumentType:
        if self._next is not None:
            return self._next
        index = self._index[-1]
        return self._open[-1].member(self.key) if index is None else self._open[-1].item(index)

    @property
    def admits_strings(self) -> bool:
        return "string" in self._kind.types

    def of_string(self, text: str) -> str:
        """The JSON of the value that a string, given as JSON, spells."""
        found = json.loads(text)
        value = self._kind.conformed(found)
        return text if isinstance(value, str) and value == found else _dumps(value)

    def of_scalar(self, text: str) -> str:
        """The JSON of a scalar, as a string where only strings are admitted."""
        value = json.loads(text)
        conformed = self._kind.conformed(value)
        return text if conformed == value and type(conformed) is type(value) else _dumps(conformed)


def read_value(text: str) -> Any:
    """The value of one JSON value, put right; ValueError where it cannot be."""
    wrapped = JsonText()
    if not wrapped.feed(f"[{text}]") or not wrapped.done:
        raise ValueError(f"{text[:80]!r} is not JSON")
    (value,) = json.loads(wrapped.take())
    return value


def _dumps(value: object) -> str:
    """JSON that can be encoded: a lone surrogate becomes what stands for characters that are none."""
    return encodable(json.dumps(value, ensure_ascii=False))


def encodable(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which UTF-8 does not have."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _token(token: str) -> str:
    """The JSON of a number or word; "" where it is neither."""
    if token in _WORDS:
        return _WORDS[token]
    if _NUMBER.fullmatch(token):
        return token
    for read in (int, float):
        try:
            number = read(token)
        except ValueError:
            continue
        return json.dumps(number) if math.isfinite(number) else ""
    return ""
