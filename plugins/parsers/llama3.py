"""{"name": …, "parameters": {…}}, with ; between several, where the answer begins or after <|python_tag|>."""

from __future__ import annotations

from collections.abc import Container, Generator

from maxserve.core.answers.script import Reading, Script
from maxserve.core.reading import ToolContext

_TAG = "<|python_tag|>"


class Llama3(Script):
    """Without the tag an object is a call only if it has the name of a declared tool."""

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        yield from self._calls("", self._declared)
        while (yield from self.content_until(_TAG)):
            yield from self._calls(_TAG, None)

    def _calls(self, before: str, declared: Container[str] | None) -> Reading:
        more = "first"
        while more:
            blanks = yield from self.blanks()
            if (yield from self.peek()) != "{":
                self.content(before + blanks)
                return ""
            more = yield from self.json_call(before + blanks, declared)
            before = more and (yield from self.skip(";"))
            more = before
        return ""
