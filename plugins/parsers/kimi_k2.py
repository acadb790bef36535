"""<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}<|tool_call_end|>, in a section: Kimi K2."""

from __future__ import annotations

import re
from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_SECTIONS = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>")
_SECTIONS_END = ("<|tool_calls_section_end|>", "<|tool_call_section_end|>")
_CALL, _ARGUMENTS, _CALL_END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ID = re.compile(r"(?:functions[.:])?(.*?)(?::\d+)?", re.DOTALL)


def recognises(template: str) -> int:
    return 100 if _CALL in template and _ARGUMENTS in template else 0


class KimiK2(Script):
    """A call's id says its name; it is given as the id, since the template shows the results of calls by it.

    An id that is a number alone means the only tool, if there is no other. The markers of the section around all calls
    say nothing; what stands between them and the calls is content.
    """

    def __init__(self, context: ToolContext) -> None:
        self._declared = [tool.name for tool in context.tools]
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while marker := (yield from self.content_until(*_SECTIONS, *_SECTIONS_END, _CALL)):
            if marker == _CALL:
                yield from self._call(_CALL)

    def _call(self, before: str) -> Reading:
        text, marker = yield from self.text_until(_ARGUMENTS, _CALL_END)
        blanks = yield from self.blanks()
        call_id = text.strip()
        name = self._name(call_id)
        if marker != _ARGUMENTS or not name or (yield from self.peek()) not in ("{", '"'):
            self.content(before + text + marker + blanks)
            return ""
        called = yield from self.json_object(before + text + marker + blanks, name, call_id)
        if called:
            yield from self.skip(_CALL_END)
        return called

    def _name(self, call_id: str) -> str:
        if call_id in self._declared:
            return call_id
        found = _ID.fullmatch(call_id)
        name = found[1].strip() if found else ""
        if not name.isdigit():
            return name
        return self._declared[0] if len(self._declared) == 1 else ""
