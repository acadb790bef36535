"""<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>: GLM 4.5 to 4.7."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.plugins.api.common.script import Reading
from maxserve.plugins.parsers.typed_calls import TaggedCalls

_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_KEY, _KEY_END, _VALUE, _VALUE_END = "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"


def recognises(template: str) -> int:
    return 100 if _KEY in template else 0


class Glm45(TaggedCalls):
    """The marker makes the call. A call in JSON is taken as well, which is what these models fall back to."""

    key_tag = (_KEY, _KEY_END)
    value_end = _VALUE_END
    call_end = _CALL_END
    behind = (_CALL,)

    def read(self) -> Generator[None, str, None]:
        while (yield from self.content_until(_CALL)):
            blanks = yield from self.blanks()
            if (yield from self.peek()) == "{":
                if (yield from self.json_call(_CALL + blanks)):
                    yield from self.skip(_CALL_END)
            else:
                yield from self._call(_CALL + blanks)

    def _call(self, before: str) -> Reading:
        text, tag = yield from self.text_until(_KEY, _CALL_END, "\n")
        name = text.strip()
        if not name or not tag or "<" in name:
            self.content(before + text + tag)
            return ""
        self.begin_object(name)
        self.unread(tag.strip())
        while (yield from self.skip(_KEY)):
            key, end = yield from self.text_until(_KEY_END)
            if not end or not (yield from self.skip(_VALUE)):
                break
            self.text_argument(key.strip(), (yield from self.value()))
        if (yield from self.skip(_CALL_END)) or (yield from self.peek()):
            self.end_object()
        return "call"
