"""{"name": …, "parameters": {…}}, with ; or blanks between several, anywhere in the text or after <|python_tag|>."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_TAG = "<|python_tag|>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_LONGEST_NAME = 256


class Llama3(Script):
    """Without the tag an object is a call only if it has the name of a declared tool.

    <function=name>{…}</function> is how these models call tools that they know of in words.
    """

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(_TAG, _FUNCTION, "{")):
            if opener == _FUNCTION:
                yield from self._function()
            elif opener == _TAG:
                yield from self.calls(_TAG)
            else:
                self.unread(opener)
                yield from self.calls("", self._declared)

    def _function(self) -> Reading:
        name = ""
        while (char := (yield)) and char not in "<>\n" and len(name) < _LONGEST_NAME:
            name += char
        before = _FUNCTION + name + char
        if char != ">" or name not in self._declared:
            self.content(before)
            return ""
        before += yield from self.blanks()
        if (yield from self.json_object(before, name)):
            yield from self.skip(_FUNCTION_END)
        return ""
