"""Anthropic's tools as functions: the client's own, and those whose schema the API knows by their type."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.anthropic.bodies import CountBody, Tool, ToolChoice

_VERSIONED = re.compile(r"(bash|text_editor|memory)_(\d{8})")
_OLD_EDITORS = "20250124"  # up to this one they could undo, and inserted `new_str`
_TEXT = {"type": "string"}
_EDITS = {
    "path": _TEXT,
    "file_text": {**_TEXT, "description": "of `create`: what the file holds"},
    "old_str": {**_TEXT, "description": "of `str_replace`: what is there"},
    "new_str": {**_TEXT, "description": "of `str_replace`: what comes instead"},
    "insert_line": {"type": "integer", "description": "of `insert`: the line after which; 0 is the beginning"},
    "view_range": {"type": "array", "items": {"type": "integer"}, "description": "of `view`: first and last line"},
}
_INSERTED = {"insert_text": {**_TEXT, "description": "of `insert`: the new text"}}


def tool_fields(body: CountBody) -> tuple[dict[str, Any], list[str]]:
    """What a chat's body says of tools, and a warning for each tool that is left out.

    Tools that run at a provider cannot run here. An answer may do without what it may call; a call that must be made
    to one of them is refused.
    """
    functions = list(_functions(body.tools or ()))
    offered = [function for _, function in functions if function is not None]
    left_out = [index for index, function in functions if function is None]
    fields: dict[str, Any] = {"tools": offered} if offered else {}
    if (choice := body.tool_choice) is not None:
        _check_forced(choice, body.tools or (), left_out, bool(offered))
        fields["tool_choice"] = _choice(choice)
        if choice.disable_parallel_tool_use is not None:
            fields["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return fields, [_reason(index, (body.tools or ())[index]) for index in left_out]


def _functions(tools: Sequence[Tool]) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Each tool's index and function; None for a tool that cannot be called here."""
    for index, tool in enumerate(tools):
        if tool.type in (None, "custom"):
            yield index, _function(index, tool, tool.description, tool.input_schema)
        elif known := _VERSIONED.fullmatch(tool.type or ""):
            description, schema = _SCHEMAS[known[1]](known[2])
            yield index, _function(index, tool, description, schema)
        else:
            yield index, None


def _function(index: int, tool: Tool, description: str | None, schema: dict[str, Any] | None) -> dict[str, Any]:
    for name, value in (("name", tool.name), ("input_schema", schema)):
        if value is None:
            param = f"tools[{index}].{name}"
            raise RequestError(f"{param}: a tool of this type needs it", param=param)
    function = {"name": tool.name, "description": description, "parameters": schema, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _bash(_: str) -> tuple[str, dict[str, Any]]:
    properties = {"command": _TEXT, "restart": {"type": "boolean", "description": "start the shell anew"}}
    return "Runs a command in a shell that goes on between calls.", {"type": "object", "properties": properties}


def _text_editor(version: str) -> tuple[str, dict[str, Any]]:
    commands = ["view", "create", "str_replace", "insert"]
    old = version <= _OLD_EDITORS
    commands += ["undo_edit"] if old else []
    return "Views and edits files.", _edits(commands, {} if old else _INSERTED)


def _memory(_: str) -> tuple[str, dict[str, Any]]:
    commands = ["view", "create", "str_replace", "insert", "delete", "rename"]
    more = {**_INSERTED, "old_path": _TEXT, "new_path": _TEXT}
    return "Keeps notes in files below /memories.", _edits(commands, more, needed=["command"])


def _edits(commands: list[str], more: dict[str, Any], needed: Sequence[str] = ("command", "path")) -> dict[str, Any]:
    properties = {"command": {"type": "string", "enum": commands}, **_EDITS, **more}
    return {"type": "object", "properties": properties, "required": list(needed)}


_SCHEMAS: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "bash": _bash,
    "text_editor": _text_editor,
    "memory": _memory,
}


def _check_forced(choice: ToolChoice, tools: Sequence[Tool], left_out: Sequence[int], offered: bool) -> None:
    forced = [
        index for index in left_out if (choice.type == "tool" and tools[index].name == choice.name and choice.name)
    ]
    if choice.type == "any" and not offered:
        forced = list(left_out)
    if forced:
        param = f"tools[{forced[0]}].type"
        message = f"{_reason(forced[0], tools[forced[0]])}, and tool_choice asks for a call to it"
        raise RequestError(message, param=param, code="unsupported_parameter")


def _reason(index: int, tool: Tool) -> str:
    kind = (tool.type or "")[:64]
    return f"tools[{index}].type: a tool of type {kind!r} runs at a provider, not here, and was left out"


def _choice(choice: ToolChoice) -> str | dict[str, Any]:
    if choice.type == "tool":
        if not choice.name:
            raise RequestError("tool_choice.name: needed when the type is tool", param="tool_choice.name")
        return {"type": "function", "function": {"name": choice.name}}
    return "required" if choice.type == "any" else choice.type
