"""{"name": …, "arguments": {…}} or an array of such objects, anywhere in the text and with or without a code fence."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_FENCE = "```"


class PlainJson(Script):
    """Nothing marks a call, so that it must have the name of a declared tool and no unusual members."""

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(_FENCE, "{", "[")):
            if opener != _FENCE:
                yield from self._calls("", opener)
            else:
                yield from self._fenced()

    def _fenced(self) -> Reading:
        before = _FENCE
        while (char := (yield)) and (char.isalpha() or char.isspace()):
            before += char
        if char not in ("{", "["):
            self.unread(char)
            self.content(before)
            return ""
        if (yield from self._calls(before, char)):
            yield from self.skip(_FENCE)
        return ""

    def _calls(self, before: str, opener: str) -> Reading:
        if opener == "[":
            return (yield from self.json_calls(before + "[", self._declared))
        self.unread(opener)
        return (yield from self.json_call(before, self._declared))
