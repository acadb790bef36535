"""Llama 4: a list of calls as in Python, or JSON objects with parameters, with or without <|python_start|>."""

from __future__ import annotations

from collections.abc import Container, Generator

from maxserve.plugins.api.common.script import Reading
from maxserve.plugins.parsers.pythonic import Pythonic

_START, _END = "<|python_start|>", "<|python_end|>"


def recognises(template: str) -> int:
    """Only templates of Llama 4 write heads with this token."""
    return 100 if "<|header_start|>" in template else 0


class Llama4(Pythonic):
    """The model answers in the form that its template asks for, or in the other.

    Without the marker a call must have the name of a declared tool.
    """

    def read(self) -> Generator[None, str, None]:
        yield from self._calls("", self._declared)
        while (yield from self.content_until(_START)):
            if (yield from self._calls(_START, None)):
                yield from self.skip(_END)

    def _calls(self, before: str, declared: Container[str] | None) -> Reading:
        before += yield from self.blanks()
        char = yield from self.peek()
        if char == "{":
            return (yield from self.calls(before, declared))
        if char != "[":
            self.content(before)
            return ""
        yield
        blanks = yield from self.blanks()
        if (yield from self.peek()) == "{":
            return (yield from self.json_calls(before + "[" + blanks, declared))
        self.unread("[" + blanks)
        return (yield from self._list(before))
