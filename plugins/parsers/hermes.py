"""<tool_call>{"name": …, "arguments": {…}}</tool_call>, any number of them."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Script

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"


class Hermes(Script):
    """The marker makes the call: names that the request did not declare are given as well.

    Within one pair of markers there may be several calls, one behind the other or in an array. An answer that begins
    with a call to a declared tool is one though the markers were forgotten.
    """

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        yield from self.bare_calls(self._declared)
        while (yield from self.content_until(_OPEN)):
            if (yield from self.calls(_OPEN)):
                yield from self.skip(_CLOSE)
