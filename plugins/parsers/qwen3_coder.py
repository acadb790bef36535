"""<tool_call><function=name><parameter=key>value</parameter></function></tool_call>."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from typing import Any

from maxserve.core.answers.script import Reading, Script
from maxserve.core.reading import ToolContext

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER, _PARAMETER_END = "<parameter=", "</parameter>"
_LONGEST_NAME = 256


class Qwen3Coder(Script):
    """A parameter is told when it is whole: what its text means is told by the tool's schema.

    Where the schema says string, or nothing, the text is one; else it is JSON if it can be read so. One line break on
    either side belongs to the tags.
    """

    def __init__(self, context: ToolContext) -> None:
        self._schemas = {tool.name: tool.parameters for tool in context.tools}
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        while opener := (yield from self.content_until(_OPEN, _FUNCTION)):
            before = opener
            if opener == _OPEN:
                before += yield from self.blanks()
                if not (yield from self.skip(_FUNCTION)):
                    self.content(before)
                    continue
                before += _FUNCTION
            if (yield from self._function(before)) and opener == _OPEN:
                yield from self.skip(_CLOSE)

    def _function(self, before: str) -> Reading:
        name = yield from self._name(before)
        if not name:
            return ""
        self.begin(name)
        self.arguments("{")
        schema, told = self._schemas.get(name, {}), 0
        while (yield from self.skip(_PARAMETER)):
            key = yield from self._name("")
            value = yield from _until(_PARAMETER_END)
            if not key or value is None:
                return ""
            self.arguments((", " if told else "") + f"{_json(key)}: {_json(_value(value, schema, key))}")
            told += 1
        if not (yield from self.skip(_FUNCTION_END)):
            return ""
        self.arguments("}")
        return "call"

    def _name(self, before: str) -> Reading:
        name = ""
        while (char := (yield)) and char not in "<>\n" and len(name) < _LONGEST_NAME:
            name += char
        if char == ">" and name.strip():
            return name.strip()
        self.content(before + name + char)
        return ""


def _until(marker: str) -> Generator[None, str, str | None]:
    """The text up to `marker`; None when it does not come."""
    read = ""
    while char := (yield):
        read += char
        if char == marker[-1] and read.endswith(marker):
            return read.removesuffix(marker)
    return None


def _value(text: str, schema: Mapping[str, Any], key: str) -> Any:
    text = text.removeprefix("\n").removesuffix("\n")
    properties = schema.get("properties")
    said = properties.get(key) if isinstance(properties, Mapping) else None
    kind = said.get("type") if isinstance(said, Mapping) else None
    if kind in (None, "string"):
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
