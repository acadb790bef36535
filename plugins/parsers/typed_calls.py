"""Calls whose arguments are written one by one, with the types that the tool's schema gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.script import Reading, Script

_ANY = ArgumentType(True)


class TypedCalls(Script):
    """Tells a call argument by argument, each when it is whole. A call in which the text ends stays open."""

    def __init__(self, context: ToolContext) -> None:
        self.types: Mapping[str, ArgumentType] = {tool.name: ArgumentType(tool.parameters) for tool in context.tools}
        self.properties = {tool.name: frozenset(tool.parameters.get("properties") or ()) for tool in context.tools}
        self._name = ""
        self._separator = ""
        super().__init__()

    def begin_object(self, name: str) -> None:
        self.begin(name, self.new_id())
        self.arguments("{")
        self._name, self._separator = name, ""

    def argument(self, key: str, value: Any) -> None:
        """An argument whose value is one of JSON already."""
        value = self._type(key).conformed(value)
        self.arguments(f"{self._separator}{json_text(key)}: {json_text(value)}")
        self._separator = ", "

    def text_argument(self, key: str, text: str) -> None:
        """An argument whose value is bare text."""
        self.arguments(f"{self._separator}{json_text(key)}: {json_text(self._type(key).of_text(text))}")
        self._separator = ", "

    def end_object(self) -> None:
        self.arguments("}")

    def declares(self, key: str) -> bool:
        """Whether the tool that is called has an argument of this name."""
        return key in self.properties.get(self._name, ())

    def _type(self, key: str) -> ArgumentType:
        return self.types.get(self._name, _ANY).member(key)


class TaggedCalls(TypedCalls):
    """For values that are bare text between tags.

    An end within a value, with more of it behind, is part of it. A forgotten end is made up for where the next tag can
    only be the call's own: an argument that is declared, or the end of the call with another call, the end of all
    calls, or the end of the text behind it.
    """

    key_tag: tuple[str, str]  # around the name of an argument
    value_end: str
    call_end: str
    behind: tuple[str, ...]  # what stands behind the end of a call

    def value(self) -> Reading:
        """The text of a value, up to its end or to that of the text."""
        read, tags = "", (self.value_end, self.key_tag[0], self.call_end)
        while char := (yield):
            read += char
            tag = next((tag for tag in tags if char == tag[-1] and read.endswith(tag)), "")
            if not tag:
                continue
            before = read.removesuffix(tag)
            if tag == self.value_end:
                if (yield from self._ahead(self.key_tag[0], self.call_end, *self.behind)):
                    return before
            elif (yield from (self._ahead_of_key() if tag == self.key_tag[0] else self._ahead(*self.behind))):
                self.unread(tag)
                return before.removesuffix("\n")
        return _whole(read, tags)

    def _ahead_of_key(self) -> Reading:
        key, end = yield from self.text_until(self.key_tag[1])
        self.unread(key + end)
        return key if end and self.declares(key.strip()) else ""

    def _ahead(self, *tags: str) -> Reading:
        """Something where one of the tags comes next, or nothing more; "" where what follows is more of a value."""
        blanks = yield from self.blanks()
        over = not (yield from self.peek())
        tag = "" if over else (yield from self.skip_any(*tags))
        self.unread(blanks + tag)
        return "over" if over else tag


def _whole(text: str, tags: tuple[str, ...]) -> str:
    """`text` without the beginning of a tag in which it breaks off."""
    begun = max((n for tag in tags for n in range(len(tag)) if text.endswith(tag[:n])), default=0)
    return text[: len(text) - begun]


def json_text(value: Any) -> str:
    """JSON as models write it; half a surrogate pair, which is no text, stays an escape."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isascii() or _encodes(text) else json.dumps(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
