"""What a request says of tools, and the schema that follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from maxserve.core.answers.tool_schema import NamedCall, RequiredCalls, calls_schema
from maxserve.core.answers.tools import ToolFields, read_tools
from maxserve.core.errors import RequestError
from maxserve.core.nouns import Tool
from maxserve.core.testing.parsers import gathered


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def read(**fields: Any) -> Any:
    return read_tools(ToolFields.model_validate(fields))


def test_without_tools_there_is_no_choice() -> None:
    for fields in ({}, {"tools": []}, {"tool_choice": "auto"}, {"tool_choice": "none"}):
        assert (read(**fields).mode, read(**fields).for_template, read(**fields).schema) == ("none", None, None)


def test_choices() -> None:
    tools = [tool("f"), tool("g", description="d", parameters={"type": "object", "properties": {"a": {}}})]
    assert read(tools=tools).mode == "auto"
    assert read(tools=tools).for_template == [
        tool("f", parameters={"type": "object", "properties": {}}),
        tool("g", description="d", parameters={"type": "object", "properties": {"a": {}}}),
    ]
    assert read(tools=tools, tool_choice="none").for_template is None
    required = read(tools=tools, tool_choice="required", parallel_tool_calls=False)
    assert required.schema["maxItems"] == 1
    assert [call["properties"]["name"]["const"] for call in required.schema["items"]["anyOf"]] == ["f", "g"]
    named = read(tools=tools, tool_choice=tool("g"))
    assert named.schema == {"type": "object", "properties": {"a": {}}}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}}
    chosen = read(tools=tools, tool_choice=allowed)
    assert (chosen.mode, [t.name for t in chosen.tools], len(chosen.for_template)) == ("required", ["g"], 2)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool(""), tool()]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": tool("g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_refusals(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert caught.value.param == param


def test_references_are_found_at_their_new_place() -> None:
    parameters = {
        "type": "object",
        "properties": {"$ref": {"$ref": "#/$defs/a~1b"}, "me": {"$ref": "#"}, "x": {"const": {"$ref": "#/y"}}},
        "$defs": {"a/b": {"type": "integer"}},
    }
    schema = calls_schema([Tool(name="e"), Tool(name="f", parameters=parameters)], parallel=True)
    place = "#/items/anyOf/1/properties/arguments"
    arguments = schema["items"]["anyOf"][1]["properties"]["arguments"]
    assert arguments["properties"]["$ref"] == {"$ref": f"{place}/$defs/a~1b"}
    assert arguments["properties"]["me"] == {"$ref": place}
    assert arguments["properties"]["x"] == {"const": {"$ref": "#/y"}}
    assert arguments["$defs"] == parameters["$defs"]


@pytest.mark.parametrize("size", [1, 3, 100])
def test_constrained_answers_are_read_back(size: int) -> None:
    text = '[{"name": "f", "arguments": {"a": [1, "]"]}}, {"name":"g","arguments":{}}]'
    named = ' {"a": {"b": "}"}} '
    for reader, answer, calls in (
        (RequiredCalls(), text, [("f", '{"a": [1, "]"]}'), ("g", "{}")]),
        (NamedCall("h"), named, [("h", '{"a": {"b": "}"}}')]),
    ):
        pieces = [answer[i : i + size] for i in range(0, len(answer), size)]
        assert gathered([*map(reader.feed, pieces), reader.finish()]) == ("", "", calls)
