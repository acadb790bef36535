"""<tool_call><function=name><parameter=key>value</parameter></function></tool_call>."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.script import Reading, Script

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_AFTER = (_OPEN, _CLOSE, _FUNCTION)  # what stands behind the end of a function
_LONGEST_NAME = 256


class Qwen3Coder(Script):
    """A parameter is given when it is whole: what its text means is known by the tool's schema.

    One line break on either side belongs to the tags. A forgotten `</parameter>` is made up for where the next tag
    can only be the function's own: a parameter that is declared, on a line of its own, or the end of the function with
    the end of the call, or of the text, behind it.
    """

    def __init__(self, context: ToolContext) -> None:
        self._types = {tool.name: ArgumentType(tool.parameters) for tool in context.tools}
        self._declared = {tool.name: frozenset(tool.parameters.get("properties") or ()) for tool in context.tools}
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(_OPEN, _FUNCTION)):
            before = opener
            if opener == _OPEN:
                before += yield from self.blanks()
                if not (yield from self.skip(_FUNCTION)):
                    yield from self._in_json(before)
                    continue
                before += _FUNCTION
            if (yield from self._function(before)):
                yield from self.skip(_CLOSE)

    def _in_json(self, before: str) -> Reading:
        """The older form, which these models fall back to now and then."""
        if (yield from self.json_call(before)):
            yield from self.skip(_CLOSE)
        return ""

    def _function(self, before: str) -> Reading:
        name = yield from self._name(before)
        if not name:
            return ""
        self.begin(name)
        self.arguments("{")
        kind, separator = self._types.get(name, ArgumentType(True)), ""
        while (yield from self.skip(_PARAMETER)):
            key = yield from self._name("")
            if not key:
                return ""
            value = yield from self._value(self._declared.get(name, frozenset()))
            self.arguments(f"{separator}{_json(key)}: {_json(kind.member(key).of_text(value))}")
            separator = ", "
        if (yield from self.skip(_FUNCTION_END)) or (yield from self.peek()):  # at the end of the text it broke off
            self.arguments("}")
        return "call"

    def _name(self, before: str) -> Reading:
        name = ""
        while (char := (yield)) and char not in "<>\n" and len(name) < _LONGEST_NAME:
            name += char
        if char == ">" and name.strip():
            return name.strip().strip("\"'")
        self.content(before + name + char)
        return ""

    def _value(self, declared: frozenset[str]) -> Reading:
        """The text up to the tag that ends it, or would if it had been written, or to the end of the text."""
        read = ""
        while char := (yield):
            read += char
            if char == ">" and read.endswith(_PARAMETER_END):
                return _inner(read.removesuffix(_PARAMETER_END))
            for tag in (_FUNCTION_END, _PARAMETER):
                if char == tag[-1] and read.endswith(tag):
                    before = read.removesuffix(tag)
                    if (yield from self._goes_on(tag, before, declared)):
                        return _inner(before)
        return _inner(_without_partial(read, _PARAMETER_END, _FUNCTION_END))

    def _goes_on(self, tag: str, before: str, declared: frozenset[str]) -> Reading:
        """Whether `tag`, which was read, belongs to the function rather than to a value; then it is to be read next."""
        ahead = (yield from _up_to(">", _LONGEST_NAME)) if tag == _PARAMETER else (yield from _tag())
        if tag == _PARAMETER:
            own = ahead.removesuffix(">") in declared and before.rstrip(" \t")[-1:] in ("", "\n")
        else:
            own = any(tag.startswith(ahead.strip()) for tag in _AFTER)
        self.unread((tag if own else "") + ahead)
        return tag if own else ""


def _up_to(last: str, most: int) -> Reading:
    read = ""
    while len(read) < most and (char := (yield)):
        read += char
        if char == last:
            break
    return read


def _tag() -> Reading:
    """Blanks and the tag after them; less where something else follows."""
    read = ""
    while char := (yield):
        read += char
        stripped = read.lstrip()
        if stripped in _AFTER or not any(tag.startswith(stripped) for tag in _AFTER):
            break
    return read


def _without_partial(text: str, *tags: str) -> str:
    """`text` without the beginning of one of `tags` that it may break off in."""
    begun = max((n for tag in tags for n in range(len(tag)) if text.endswith(tag[:n])), default=0)
    return text[: len(text) - begun]


def _inner(text: str) -> str:
    return text.removeprefix("\n").removesuffix("\n")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
