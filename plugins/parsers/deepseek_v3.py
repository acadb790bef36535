"""The calls of DeepSeek: function<｜tool▁sep｜>name and a code fence in V3 and R1, name<｜tool▁sep｜>{…} since V3.1."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEPARATOR, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_FENCE = "```"


def recognises(template: str) -> int:
    return 100 if _CALL in template and _SEPARATOR in template else 0


class DeepSeekV3(Script):
    """Both forms are read, whichever the template shows: models go over from one to the other.

    The marker makes the call. The marker around all calls may be missing, and so may the fence.
    """

    def __init__(self, context: ToolContext) -> None:
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(_CALLS, _CALL)):
            before = opener
            if opener == _CALLS:
                before += yield from self.blanks()
                if not (yield from self.skip(_CALL)):
                    self.content(before)
                    continue
                before += _CALL
            if (yield from self._call(before)):
                yield from self.skip_any(_CALLS_END)

    def _call(self, before: str) -> Reading:
        kind, separator = yield from self.text_until(_SEPARATOR, _CALL_END)
        before += kind + separator
        if separator != _SEPARATOR:
            self.content(before)
            return ""
        blanks = yield from self.blanks()
        name, fence = kind.strip(), ""
        if (yield from self.peek()) != "{":
            line, end = yield from self.text_until("\n", _CALL_END)
            blanks += line + end
            head, fence, _ = line.partition(_FENCE)
            name = head.strip() or name
        return (yield from self._arguments(before + blanks, name, fence))

    def _arguments(self, before: str, name: str, fence: str) -> Reading:
        if not fence and (fence := (yield from self.skip_any(_FENCE + "json", _FENCE))):
            before += fence
        before += yield from self.blanks()
        if not name or (yield from self.peek()) not in ("{", '"'):
            self.content(before)
            return ""
        called = yield from self.json_object(before, name)
        if called:
            yield from self.skip_any(_FENCE)
            yield from self.skip_any(_CALL_END)
        return called
