"""Tools of the Responses API as functions of a chat, and calls to them as the items that clients expect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from pydantic import ValidationError

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.openai.responses_body import AllowedTool, InnerTool, Item, NamedTool, Tool

_STRINGS = {"type": "array", "items": {"type": "string"}}
_TEXT, _INTEGER = {"type": "string"}, {"type": "integer"}
_ALLOWED = "allowed_tools"
_ADDING = frozenset({"tool_search_output", "additional_tools"})
# What runs at OpenAI. A model that is only offered such a tool does without it.
_HOSTED = ("web_search", "file_search", "code_interpreter", "image_generation", "computer", "programmatic_tool_calling")
_RUNS_ELSEWHERE = "runs at a provider, not here, and was left out"


def _object(text: str) -> dict[str, Any]:
    """The arguments of a call; nothing where they are not whole."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _given(arguments: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names if arguments.get(name) is not None}


def _freeform(text: str) -> dict[str, Any]:
    value = _object(text).get("input")
    return {"input": value if isinstance(value, str) else text}


def _command(text: str) -> dict[str, Any]:
    given = _object(text)
    action = {"type": "exec", "command": given.get("command") or [], "env": given.get("env") or {}}
    return {"action": action | _given(given, "timeout_ms", "working_directory")}


def _commands(text: str) -> dict[str, Any]:
    given = _object(text)
    return {"action": {"commands": given.get("commands") or []} | _given(given, "timeout_ms", "max_output_length")}


class CallKind(msgspec.Struct, frozen=True, kw_only=True):
    """What a call to a kind of tool looks like: the type of its item, and of its output's.

    `fields` are those of the item whose arguments are a text; `arguments` those of an item that the client sends back.
    `parameters` are what the model reads, where the tool's declaration does not say.
    """

    item: str
    prefix: str
    fields: Callable[[str], dict[str, Any]]
    arguments: Callable[[Item], Any]
    description: str = ""
    parameters: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def output(self) -> str:
        return "tool_search_output" if self.item == "tool_search_call" else f"{self.item}_output"


def _parameters(needed: Sequence[str], **properties: Any) -> Mapping[str, Any]:
    return {"type": "object", "properties": properties, "required": list(needed), "additionalProperties": False}


FUNCTION = CallKind(
    item="function_call", prefix="fc", fields=lambda text: {"arguments": text}, arguments=lambda item: item.arguments
)
KINDS: Mapping[str, CallKind] = {
    "function": FUNCTION,
    "custom": CallKind(
        item="custom_tool_call",
        prefix="ctc",
        fields=_freeform,
        arguments=lambda item: None if item.input is None else {"input": item.input},
        parameters=_parameters(["input"], input={**_TEXT, "description": "the whole input, as it is"}),
    ),
    "local_shell": CallKind(
        item="local_shell_call",
        prefix="lsh",
        fields=_command,
        arguments=lambda item: item.action and _given(item.action, "command", "timeout_ms", "working_directory", "env"),
        description="Runs a command on the client's machine.",
        parameters=_parameters(["command"], command=_STRINGS, timeout_ms=_INTEGER, working_directory=_TEXT),
    ),
    "shell": CallKind(
        item="shell_call",
        prefix="sh",
        fields=_commands,
        arguments=lambda item: item.action and _given(item.action, "commands", "timeout_ms", "max_output_length"),
        description="Runs shell commands on the client's machine.",
        parameters=_parameters(["commands"], commands=_STRINGS, timeout_ms=_INTEGER, max_output_length=_INTEGER),
    ),
    "apply_patch": CallKind(
        item="apply_patch_call",
        prefix="apc",
        fields=lambda text: {"operation": _object(text)},
        arguments=lambda item: item.operation,
        description="Creates, changes or deletes a file; `diff` is in the V4A format.",
        parameters=_parameters(
            ["type", "path"], type={"enum": ["create_file", "update_file", "delete_file"]}, path=_TEXT, diff=_TEXT
        ),
    ),
    "tool_search": CallKind(
        item="tool_search_call",
        prefix="tsc",
        fields=lambda text: {"execution": "client", "arguments": _object(text)},
        arguments=lambda item: item.arguments,
        description="Finds more tools.",
        parameters=_parameters(["query"], query=_TEXT),
    ),
}
CALLS: Mapping[str, tuple[str, CallKind]] = {kind.item: (name, kind) for name, kind in KINDS.items()}
OUTPUTS: Mapping[str, CallKind] = {kind.output: kind for kind in KINDS.values()}


def spoken_name(name: str, namespace: str | None = None) -> str:
    """What the model knows a tool by: names need to be unique within their namespace only."""
    return name if not namespace else f"{namespace.removesuffix('__')}__{name}"


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as the client declared it: its kind, and its name within a namespace, if it has one."""

    kind: CallKind = FUNCTION
    name: str = ""
    namespace: str | None = None

    def item(self, text: str, call_id: str) -> dict[str, Any]:
        """The fields of a call whose arguments are `text`."""
        named = {"name": self.name} if self.kind in (FUNCTION, KINDS["custom"]) else {}
        within = {"namespace": self.namespace} if self.namespace else {}
        return {"call_id": call_id, **named, **within, **self.kind.fields(text)}


class ResponseTools:
    """The tools of a request: `functions` for the chat, `warnings` about those that were left out.

    RequestError with the place of a tool that cannot be taken.
    """

    def __init__(self, tools: Iterable[tuple[str, Tool]], choice: str | NamedTool | None) -> None:
        self.functions: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._offered: dict[str, Offered] = {}
        self._left_out: dict[str, str] = {}  # where, by type
        for where, tool in tools:
            self._take(where, tool)
        self._choice = choice
        self.choice = self._chosen()

    def called(self, name: str) -> Offered:
        """The tool that the model means by `name`."""
        return self._offered.get(name) or Offered(name=name)

    def _take(self, where: str, tool: InnerTool, namespace: str | None = None) -> None:
        if tool.type == "namespace" and isinstance(tool, Tool):
            for index, inner in enumerate(tool.tools or ()):
                self._take(f"{where}.tools[{index}]", inner, _needed(tool.name, f"{where}.name"))
        elif tool.type in KINDS and not _is_hosted(tool):
            self._offer(where, tool, namespace)
        elif tool.type.startswith(_HOSTED) or tool.type in KINDS:
            self._left_out.setdefault(tool.type, where)
            self.warnings.append(f"{where}.type: a tool of type {tool.type[:64]!r} {_RUNS_ELSEWHERE}")
        else:
            reason = "this server reaches no MCP servers" if tool.type == "mcp" else "this server does not know it"
            message = f"{where}.type: a tool of type {tool.type[:64]!r} is not supported; {reason}"
            raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")

    def _offer(self, where: str, tool: InnerTool, namespace: str | None) -> None:
        kind = KINDS[tool.type]
        name = tool.name or (tool.type if kind not in (FUNCTION, KINDS["custom"]) else None)
        offered = Offered(kind=kind, name=_needed(name, f"{where}.name"), namespace=namespace)
        spoken = spoken_name(offered.name, namespace)
        if self._offered.get(spoken) == offered:
            return  # one that was searched for, and found again
        self._offered[spoken] = offered
        self.functions.append({"type": "function", "function": {"name": spoken, **_declared(kind, tool)}})

    def _chosen(self) -> str | dict[str, Any] | None:
        choice = self._choice
        if choice == "required" and self._left_out and not self.functions:
            raise self._forced(next(iter(self._left_out)))
        if choice is None or isinstance(choice, str):
            return choice
        if choice.type != _ALLOWED:
            return _function(self._meant(choice, "tool_choice"))
        return {"type": _ALLOWED, _ALLOWED: {"mode": choice.mode or "auto", "tools": self._allowed(choice)}}

    def _allowed(self, choice: NamedTool) -> list[dict[str, Any]]:
        """The tools that are allowed; those that run elsewhere were left out, unless nothing else is allowed."""
        wanted = [(f"tool_choice.tools[{i}]", tool) for i, tool in enumerate(choice.tools or ())]
        here = [(where, tool) for where, tool in wanted if tool.type not in self._left_out]
        return [_function(self._meant(tool, where)) for where, tool in here or wanted]

    def _meant(self, choice: AllowedTool, where: str) -> str:
        if choice.type in self._left_out:
            raise self._forced(choice.type)
        if choice.type not in KINDS:
            message = f"{where}.type: {choice.type[:64]!r} cannot be called here"
            raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
        named = choice.type in ("function", "custom")
        return spoken_name(_needed(choice.name, f"{where}.name") if named else choice.type, choice.namespace)

    def _forced(self, kind: str) -> RequestError:
        param = f"{self._left_out[kind]}.type"
        message = f"{param}: a tool of type {kind[:64]!r} runs at a provider, not here, and tool_choice asks for it"
        return RequestError(message, param=param, code="unsupported_parameter")


def declared_tools(tools: Sequence[Tool] | None, items: str | Sequence[Item]) -> Iterator[tuple[str, Tool]]:
    """Where each tool stands, and the tool; those that the conversation has added since are among them."""
    yield from ((f"tools[{index}]", tool) for index, tool in enumerate(tools or ()))
    for place, item in enumerate(() if isinstance(items, str) else items):
        if item.type in _ADDING:
            yield from (_found(f"input[{place}].tools[{index}]", tool) for index, tool in enumerate(item.tools or ()))


def _found(where: str, value: Any) -> tuple[str, Tool]:
    try:
        return where, Tool.model_validate(value)
    except ValidationError as error:
        raise RequestError(f"{where}: {error.errors()[0]['msg']}", param=where) from None


def _is_hosted(tool: InnerTool) -> bool:
    """A search for tools that the server would make; a shell in a container of the server's."""
    if tool.type == "tool_search":
        return tool.execution != "client"
    environment = tool.environment if tool.type == "shell" else None
    return environment is not None and environment.get("type", "local") != "local"


def _declared(kind: CallKind, tool: InnerTool) -> dict[str, Any]:
    described = tool.description or kind.description
    if tool.format and tool.format.get("type") == "grammar":
        syntax, definition = tool.format.get("syntax"), tool.format.get("definition")
        described += f"\n\nThe input must match this grammar ({syntax}):\n{definition}"
    # A freeform tool has an input of its own; the others say what they take, or the type does.
    parameters = tool.parameters if kind is FUNCTION or tool.parameters is not None else kind.parameters
    fields = {"description": described or None, "parameters": parameters, "strict": tool.strict}
    return {name: value for name, value in fields.items() if value is not None}


def _function(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise RequestError(f"{where}: a tool of this type needs it", param=where)
    return value
