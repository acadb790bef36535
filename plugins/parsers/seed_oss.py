"""<seed:tool_call><function=f><parameter=a>value</parameter></function></seed:tool_call>: Seed-OSS."""

from __future__ import annotations

from collections.abc import Generator

from maxserve.plugins.api.common.script import Reading
from maxserve.plugins.parsers.typed_calls import TaggedCalls

_BLOCK, _BLOCK_END = "<seed:tool_call>", "</seed:tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"


def recognises(template: str) -> int:
    return 100 if "</seed:tool_call>" in template else 0


class SeedOss(TaggedCalls):
    """The marker makes the call. Values stand between the tags as they are."""

    key_tag = (_PARAMETER, ">")
    value_end = _PARAMETER_END
    call_end = _FUNCTION_END
    behind = (_FUNCTION, _BLOCK_END)

    def read(self) -> Generator[None, str, None]:
        while (yield from self.content_until(_BLOCK)):
            before = _BLOCK + (yield from self.blanks())
            if not (yield from self.skip(_FUNCTION)):
                self.content(before)
                continue
            before += _FUNCTION
            while (yield from self._call(before)) and (yield from self.skip(_FUNCTION)):
                before = _FUNCTION
            yield from self.skip(_BLOCK_END)

    def _call(self, before: str) -> Reading:
        name, end = yield from self.text_until(">", "\n")
        if end != ">" or not name.strip():
            self.content(before + name + end)
            return ""
        self.begin_object(name.strip())
        while (yield from self.skip(_PARAMETER)):
            key, end = yield from self.text_until(">")
            if not end:
                break
            self.text_argument(key.strip(), (yield from self.value()))
        if (yield from self.skip(_FUNCTION_END)) or (yield from self.peek()):
            self.end_object()
        return "call"
