"""[TOOL_CALLS][{"name": …, "arguments": {…}}, …], and since 2025 [TOOL_CALLS]name[ARGS]{…} for each call."""

from __future__ import annotations

import random
import string
from collections.abc import Generator

from maxserve.interfaces.parsers import ToolContext
from maxserve.plugins.api.common.script import Reading, Script

_CALLS, _ARGS, _ID, _END = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[/TOOL_CALLS]"
_ALPHABET = string.ascii_letters + string.digits
_NAME = frozenset(_ALPHABET + "_-.")


class Mistral(Script):
    """The marker makes the call, as with hermes. Mistral's templates insist on ids of nine letters and digits."""

    def __init__(self, context: ToolContext) -> None:
        self._declared = frozenset(tool.name for tool in context.tools)
        super().__init__()

    def new_id(self) -> str:
        return "".join(random.choices(_ALPHABET, k=9))

    def read(self) -> Generator[None, str, None]:
        yield from self.bare_calls(self._declared)
        while (yield from self.content_until(_CALLS)):
            blanks = yield from self.blanks()
            if (yield from self.peek()) in ("[", "{"):
                if (yield from self.calls(_CALLS + blanks)):
                    yield from self.skip(_END)
            else:
                yield from self._named(_CALLS + blanks)

    def _named(self, before: str) -> Reading:
        name = yield from self._word()
        before += name
        call_id = ""
        if name and (yield from self.skip(_ID)):
            call_id = yield from self._word()
            before += _ID + call_id
        if name and (yield from self.skip(_ARGS)):
            before += _ARGS
        blanks = yield from self.blanks()
        if name and (yield from self.peek()) in ("{", '"'):
            return (yield from self.json_object(before + blanks, name, call_id))
        self.content(before + blanks)
        return ""

    def _word(self) -> Reading:
        word = ""
        while (char := (yield)) and char in _NAME:
            word += char
        self.unread(char)
        return word
