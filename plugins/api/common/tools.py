"""The tools that the model may, or must, call in an answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import msgspec
from pydantic import Field

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.parsers import Tool
from maxserve.plugins.api.common.fields import Body
from maxserve.plugins.api.common.tool_schema import arguments_schema, calls_schema
from maxserve.plugins.api.common.unsupported import UNSUPPORTED

MOST_TOOLS = 512
_NAME = re.compile(r"[a-zA-Z0-9_.:/-]{1,256}")  # as agents name the tools of MCP servers: mcp__server__tool
_HINTS = {"functions": "tools", "function_call": "tool_choice"}

Mode = Literal["none", "auto", "required", "named"]


class FunctionItem(Body):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolItem(Body):
    """A function; also without the object around it, as other APIs declare their tools."""

    type: str = "function"
    function: FunctionItem | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def declared(self) -> FunctionItem | None:
        if self.function is not None or self.name is None:
            return self.function
        parameters = self.input_schema if self.parameters is None else self.parameters
        return FunctionItem(name=self.name, description=self.description, parameters=parameters, strict=self.strict)


class ToolFields(Body):
    """The fields of a chat body that are about tools."""

    tools: Annotated[list[ToolItem], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = Field(
        None, description="functions the model may call"
    )
    tool_choice: str | dict[str, Any] | None = Field(
        None, description="none, auto, required, or the function that must be called"
    )
    parallel_tool_calls: bool | None = Field(None, description="whether an answer may hold several calls; default true")


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of tools. `tools` may be called, `declared` are all that the template gets."""

    mode: Mode = "none"
    tools: tuple[Tool, ...] = ()
    declared: tuple[Tool, ...] = ()
    parallel: bool = True

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON Schema of the answer's text where calls must be made, else None."""
        if self.mode == "named":
            return arguments_schema(self.tools[0])
        return calls_schema(self.tools, parallel=self.parallel) if self.mode == "required" else None

    @property
    def for_template(self) -> list[dict[str, Any]] | None:
        """The tools as chat templates take them; None when there are none, or the model must not know of them."""
        if self.mode == "none" or not self.declared:
            return None
        return [{"type": "function", "function": _function(tool)} for tool in self.declared]


def read_tools(body: ToolFields) -> ToolChoice:
    """What `body` says; RequestError with the field at fault."""
    for old, new in _HINTS.items():
        value = (body.model_extra or {}).get(old)
        if value is not None and not UNSUPPORTED[old](value):
            raise RequestError(f"{old} is the old spelling and is not served; use {new}", param=old)
    tools = _tools(body.tools or [])
    parallel = body.parallel_tool_calls is not False
    choice = body.tool_choice
    if not choice:
        return ToolChoice(mode="auto" if tools else "none", tools=tools, declared=tools, parallel=parallel)
    mode, chosen = _choice(choice, tools)
    return ToolChoice(mode=mode if tools else "none", tools=chosen, declared=tools, parallel=parallel)


def _function(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": dict(tool.parameters)}


def _tools(items: Sequence[ToolItem]) -> tuple[Tool, ...]:
    tools: dict[str, Tool] = {}
    for index, item in enumerate(items):
        tool = _tool(item, f"tools[{index}]")
        if tools.get(tool.name, tool) != tool:
            raise RequestError(f"two different tools are called {tool.name!r}", param=f"tools[{index}].function.name")
        tools[tool.name] = tool
    return tuple(tools.values())


def _tool(item: ToolItem, where: str) -> Tool:
    if item.type != "function" and item.input_schema is None:
        raise RequestError(f"{where}.type must be 'function', not {item.type[:64]!r}", param=f"{where}.type")
    function = item.declared
    if function is None:
        raise RequestError(f"{where} needs a function", param=f"{where}.function")
    if not _NAME.fullmatch(function.name):
        message = f"a tool's name has 1 to 256 of a-z, A-Z, 0-9 and _.:/-; got {function.name[:80]!r}"
        raise RequestError(message, param=f"{where}.function.name")
    parameters = function.parameters or {"type": "object", "properties": {}}
    if parameters.get("type", "object") not in ("object", ["object"], None):
        message = f"{where}.function.parameters must be a JSON Schema of an object: arguments are given by name"
        raise RequestError(message, param=f"{where}.function.parameters")
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=parameters,
        strict=bool(function.strict),
    )


# What clients call the modes, as a text or as the type of an object.
_MODES: Mapping[str, Mode] = {
    "none": "none",
    "auto": "auto",
    "required": "required",
    "any": "required",
    "function": "named",
    "tool": "named",
}


def _choice(choice: str | Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[Mode, tuple[Tool, ...]]:
    """The mode, and the tools that may be called: OpenAI's spellings, and those of other APIs."""
    if isinstance(choice, Mapping):
        return _chosen(choice, tools)
    named = tuple(tool for tool in tools if tool.name == choice)
    mode = _MODES.get(choice, "named")
    if mode == "named" and not named:
        message = f"tool_choice must be none, auto, required or an object that names a function; got {choice[:64]!r}"
        raise RequestError(message, param="tool_choice")
    if mode == "required":
        _need_tools(tools)
    return mode, named if mode == "named" else tools


def _chosen(choice: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[Mode, tuple[Tool, ...]]:
    kind = choice.get("type", "function" if {"function", "name"} & choice.keys() else choice.get("mode"))
    if kind == "allowed_tools":
        return _allowed(choice, tools)
    if not isinstance(kind, str) or kind not in _MODES:
        message = "tool_choice.type must be 'function' or 'allowed_tools'"
        raise RequestError(message, param="tool_choice.type")
    if _MODES[kind] != "named":
        return _choice(kind, tools)
    _need_tools(tools)
    return "named", (_named(choice, tools, "tool_choice"),)


def _allowed(choice: Mapping[str, Any], tools: tuple[Tool, ...]) -> tuple[Mode, tuple[Tool, ...]]:
    allowed = choice.get("allowed_tools", choice)
    items = allowed.get("tools") if isinstance(allowed, Mapping) else None
    if not isinstance(items, list) or not items or allowed.get("mode", "auto") not in ("auto", "required"):
        message = "tool_choice.allowed_tools needs a mode, auto or required, and a list of tools"
        raise RequestError(message, param="tool_choice.allowed_tools")
    named = tuple({tool.name: tool for tool in (_named(i, tools, "tool_choice.allowed_tools") for i in items)}.values())
    return ("required" if allowed.get("mode") == "required" else "auto"), named


def _named(choice: Any, tools: tuple[Tool, ...], where: str) -> Tool:
    function = choice.get("function", choice) if isinstance(choice, Mapping) else choice
    name = function.get("name") if isinstance(function, Mapping) else function
    for tool in tools:
        if tool.name == name:
            return tool
    known = ", ".join(tool.name for tool in tools)[:500]
    raise RequestError(f"{where} names {name!r:.80}, which is none of tools: {known}", param=where)


def _need_tools(tools: tuple[Tool, ...]) -> None:
    if not tools:
        raise RequestError("tool_choice asks for a call, and tools has none that could be called", param="tool_choice")
