"""<tool_call>{"name": …, "arguments": {…}}</tool_call>, any number of them."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.core.answers.script import Script
from maxserve.core.reading import ToolContext

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes(Script):
    """The marker makes the call: names that the request did not declare are told as well."""

    def __init__(self, context: ToolContext) -> None:
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while (yield from self.content_until(_OPEN)):
            blanks = yield from self.blanks()
            if (yield from self.json_call(_OPEN + blanks)):
                yield from self.skip(_CLOSE)
