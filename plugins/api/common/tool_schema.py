"""The JSON Schema of answers that are calls and nothing else, and what reads them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from maxserve.interfaces.parsers import Tool
from maxserve.plugins.api.common.script import Script

MOST_CALLS = 16  # in one answer that must call

# What may admit members that `properties` does not name.
_OPEN = frozenset(
    {
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "propertyNames",
        "dependentSchemas",
        "dependencies",
        "minProperties",
        "$ref",
        "$dynamicRef",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "const",
        "enum",
    }
)


def arguments_schema(tool: Tool) -> dict[str, Any]:
    """The object that a call's arguments are.

    A function takes the parameters that it declares, and one without parameters takes none: without a word of others
    in the schema, the model is not left free to invent them.
    """
    schema = {"type": "object", **tool.parameters}
    declared = schema.setdefault("properties", {})
    required = schema.get("required", ())
    known = (
        isinstance(declared, Mapping) and isinstance(required, Sequence) and all(name in declared for name in required)
    )
    return schema | {"additionalProperties": False} if known and _OPEN.isdisjoint(schema) else schema


def calls_schema(tools: Sequence[Tool], *, parallel: bool) -> dict[str, Any]:
    """An array of calls to any of `tools`, each {"name": …, "arguments": …}.

    Each tool's schema is a document of its own within it, in which its references are found.
    """
    calls = [_call(tool, f"urn:tool:{index}") for index, tool in enumerate(tools)]
    most = MOST_CALLS if parallel else 1
    return {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": calls}}


def _call(tool: Tool, document: str) -> dict[str, Any]:
    schema = arguments_schema(tool)
    if not isinstance(own := schema.get("$id"), str) or not own or own.startswith("#"):
        schema = {**schema, "$id": document}
    return {
        "type": "object",
        "properties": {"name": {"const": tool.name}, "arguments": schema},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class _ForcedCalls(Script):
    """What is not a call, of an answer that had to be one and was cut off, is nothing that a client asked for."""

    def content(self, text: str) -> None:
        """Tells nothing."""


class NamedCall(_ForcedCalls):
    """Reads an answer that is the arguments of one call."""

    def __init__(self, name: str) -> None:
        self._name = name
        super().__init__()

    def read(self) -> Generator[None, str, None]:
        yield from self.blanks()
        yield from self.json_object("", self._name)
        yield from self.content_until()


class RequiredCalls(_ForcedCalls):
    """Reads an answer that is an array of calls."""

    def read(self) -> Generator[None, str, None]:
        yield from self.blanks()
        if (yield from self.peek()) == "[":
            yield
            yield from self.json_calls("")
        yield from self.content_until()


def constrained_reader(mode: str, tools: Sequence[Tool]) -> Callable[[], Script]:
    """Makes readers of answers that a constraint holds to `arguments_schema` or `calls_schema`."""
    return RequiredCalls if mode == "required" else lambda: NamedCall(tools[0].name)
