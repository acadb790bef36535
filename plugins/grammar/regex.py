"""Regular expressions of clients, in the one dialect that all back ends and Python's `re` read alike.

An expression is what `re` takes, less what is no regular language (lookarounds, back references) or depends on flags.
`\\d`, `\\w` and `\\s` are ASCII and their opposites leave out all of Unicode's, so that a text matches under either
reading.
"""

from __future__ import annotations

import re
import warnings

import msgspec

from maxserve.interfaces.errors import GrammarUnsupported

LONGEST = 20_000  # characters
MOST_REPEATS = 10_000  # copies that all counts of an expression may ask for, nested ones multiplied

_POSITIVE = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t-\r\x20"}
_NEGATIVE = {  # what the opposites leave out
    "D": r"\p{Nd}",
    "W": r"\p{Alphabetic}\p{M}\p{N}\p{L}\p{Pc}\p{Join_Control}",
    "S": r"\p{White_Space}\x1c-\x1f\x{FEFF}",
}
_WIDE = {"d": _NEGATIVE["D"], "w": _NEGATIVE["W"], "s": _NEGATIVE["S"]}  # inside a negated class
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "a": 7}
_COUNT = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")


class Expression(msgspec.Struct, frozen=True):
    """`body` without anchors, in Rust's notation; `start` and `end` say whether they stood there."""

    body: str
    start: bool
    end: bool

    @property
    def pattern(self) -> str:
        """As an unanchored search, which is what a schema's `pattern` means."""
        return ("^" if self.start else "") + f"(?:{self.body})" + ("$" if self.end else "")


def read(text: str) -> Expression:
    """GrammarUnsupported for what is no expression, or none of this dialect."""
    if len(text) > LONGEST:
        raise GrammarUnsupported(
            f"the expression has {len(text)} characters; at most {LONGEST} are taken", invalid=True
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sets that a later Python might read otherwise: we read them ourselves
            re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise GrammarUnsupported(f"it is no regular expression: {error}", invalid=True) from None
    reader = _Reader(text)
    body = reader.alternatives(depth=0)
    anchored = reader.starts or reader.ends
    if anchored and reader.branches:
        return Expression(body, True, True)  # each branch matches as a whole: fewer texts, all of them valid
    return Expression(body, reader.starts, reader.ends)


def literal(text: str) -> str:
    """An expression for `text` itself, in the same notation."""
    return "".join(map(_char, map(ord, text)))


def _char(code: int) -> str:
    if 0xD800 <= code < 0xE000:
        raise GrammarUnsupported("a lone surrogate is no character", invalid=True)
    char = chr(code)
    if char.isalnum() or code > 0x7F:
        return char if char.isprintable() else f"\\x{{{code:X}}}"
    return f"\\x{code:02x}"


class _Reader:
    """Reads an expression that `re` has taken, and writes it anew."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self.starts = self.ends = False
        self.branches = False

    def alternatives(self, depth: int) -> str:
        if depth > 50:
            raise GrammarUnsupported("the expression is nested more than 50 deep", invalid=True)
        branches = [self._sequence(depth)]
        while self._next("|"):
            self.branches |= depth == 0
            branches.append(self._sequence(depth))
        return "|".join(text for text, _ in branches) if self._weigh(sum(size for _, size in branches)) else ""

    def _weigh(self, size: int) -> bool:
        if size > MOST_REPEATS:
            raise GrammarUnsupported(
                f"its counts ask for more than {MOST_REPEATS} copies in all; ask for fewer", invalid=True
            )
        self.size = size
        return True

    def _sequence(self, depth: int) -> tuple[str, int]:
        parts: list[str] = []
        size = 0
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if self._anchor(depth, first=not parts):
                continue
            part, one = self._atom(depth)
            count, most = self._count()
            parts.append(part + count)
            size += one * max(1, most)
            self._weigh(size)
        return "".join(parts), size

    def _anchor(self, depth: int, *, first: bool) -> bool:
        char = self._text[self._at]
        if char not in "^$":
            return False
        last = self._at + 1 == len(self._text) or self._text[self._at + 1] == "|"
        if depth or not (first if char == "^" else last):
            raise GrammarUnsupported(f"the anchor {char!r} inside an expression is not supported", invalid=True)
        self._at += 1
        self.starts |= char == "^"
        self.ends |= char == "$"
        return True

    def _atom(self, depth: int) -> tuple[str, int]:
        char = self._take()
        if char == "(":
            return self._group(depth)
        if char == "[":
            return self._set(), 1
        if char == "\\":
            return self._escape(), 1
        return (r"[^\n]" if char == "." else _char(ord(char))), 1

    def _group(self, depth: int) -> tuple[str, int]:
        if self._next("?"):
            name = re.compile(r"P<\w+>|:").match(self._text, self._at)
            if name is None:
                what = self._text[self._at - 2 : self._at + 1]
                raise GrammarUnsupported(f"{what!r} (lookarounds, flags and the like) is not supported", invalid=True)
            self._at = name.end()
        body = self.alternatives(depth + 1)
        size = self.size
        self._at += 1  # the closing parenthesis, which `re` has seen
        return f"(?:{body})", size

    def _escape(self) -> str:
        char = self._take()
        if char in _POSITIVE:
            return f"[{_POSITIVE[char]}]"
        if char in _NEGATIVE:
            return f"[^{_NEGATIVE[char]}]"
        return _char(self._code(char, in_set=False))

    def _code(self, char: str, *, in_set: bool) -> int:
        """The character of an escape whose backslash and first letter are read."""
        if char in "xuU":
            digits = {"x": 2, "u": 4, "U": 8}[char]
            self._at += digits
            return int(self._text[self._at - digits : self._at], 16)
        if char == "0" or (in_set and char in "1234567"):
            digits_found = re.compile(r"[0-7]{0,2}").match(self._text, self._at)
            more = digits_found[0] if digits_found else ""
            self._at += len(more)
            return int(char + more, 8)
        if char == "b" and in_set:
            return 8
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char.isalnum():
            raise GrammarUnsupported(f"'\\{char}' is not supported", invalid=True)
        return ord(char)

    def _set(self) -> str:
        negated = self._next("^")
        parts: list[str] = []
        first = True
        while first or self._text[self._at] != "]":
            first = False
            low = self._set_item(negated)
            if isinstance(low, int) and self._text[self._at] == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = self._set_item(negated)
                assert isinstance(high, int), "re has refused such a range"
                parts.append(f"{_char(low)}-{_char(high)}")
            else:
                parts.append(_char(low) if isinstance(low, int) else low)
        self._at += 1
        if not negated and any(part.startswith("!") for part in parts):
            inner = "|".join(f"[^{p[1:]}]" if p.startswith("!") else f"[{p}]" for p in parts)
            return f"(?:{inner})"
        if negated and any(part.startswith("!") for part in parts):
            raise GrammarUnsupported("an opposite such as \\D inside a negated set is not supported", invalid=True)
        return f"[{'^' if negated else ''}{''.join(parts)}]"

    def _set_item(self, negated: bool) -> int | str:
        """A character, or what stands for a class of them; "!" in front of what an opposite leaves out."""
        char = self._take()
        if char != "\\":
            return ord(char)
        char = self._take()
        if char in _POSITIVE:
            return (_WIDE if negated else _POSITIVE)[char]
        if char in _NEGATIVE:
            return "!" + _NEGATIVE[char]
        return self._code(char, in_set=True)

    def _count(self) -> tuple[str, int]:
        """A quantifier, and how many copies it asks for at most."""
        if self._at >= len(self._text):
            return "", 1
        char, found, most = self._text[self._at], "", 1
        if char in "*+?":
            self._at += 1
            found = char
        elif char == "{" and (match := _COUNT.match(self._text, self._at)) and match[0] not in ("{}",):
            self._at = match.end()
            low, high = int(match[1] or 0), match[3] if match[2] else match[1]
            found = f"{{{low},{high}}}"
            most = int(high) if high else low
        if found and self._next("+"):
            raise GrammarUnsupported(f"the possessive quantifier '{found}+' is not supported", invalid=True)
        if found:
            self._next("?")  # a lazy one matches the same texts
        return found, most

    def _take(self) -> str:
        self._at += 1
        return self._text[self._at - 1]

    def _next(self, char: str) -> bool:
        if self._text[self._at : self._at + 1] != char:
            return False
        self._at += 1
        return True
