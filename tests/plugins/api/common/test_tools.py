"""What a request says of tools, and the schema that follows from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.parsers import Tool
from maxserve.plugins.api.common.tool_schema import NamedCall, RequiredCalls, calls_schema
from maxserve.plugins.api.common.tools import ToolFields, read_tools
from maxserve.plugins.grammar.schema import checked
from maxserve.testing.parsers import gathered


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
    assert named.schema == {"type": "object", "properties": {"a": {}}, "additionalProperties": False}
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("g")]}}
    chosen = read(tools=tools, tool_choice=allowed)
    assert (chosen.mode, [t.name for t in chosen.tools], len(chosen.for_template)) == ("required", ["g"], 2)


@pytest.mark.parametrize(
    ("choice", "mode"),
    [
        ("any", "required"),
        ({"type": "any"}, "required"),
        ({"type": "required"}, "required"),
        ({"mode": "required"}, "required"),
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ("", "auto"),
        ({}, "auto"),
        ("f", "named"),
        ({"type": "function", "function": {"name": "f"}}, "named"),
        ({"type": "function", "function": "f"}, "named"),
        ({"type": "function", "name": "f"}, "named"),
        ({"function": {"name": "f"}}, "named"),
        ({"type": "tool", "name": "f"}, "named"),
        ({"name": "f"}, "named"),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}, "required"),
    ],
)
def test_choices_as_other_apis_spell_them(choice: Any, mode: str) -> None:
    chosen = read(tools=[tool("f"), tool("g")], tool_choice=choice)
    assert chosen.mode == mode
    one = mode == "named" or (isinstance(choice, dict) and "tools" in choice)
    assert [each.name for each in chosen.tools] == (["f"] if one else ["f", "g"])


def test_tools_as_other_apis_declare_them() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    items: list[dict[str, Any]] = [
        {"type": "function", "name": "f", "description": "d", "parameters": schema},
        {"name": "f", "description": "d", "input_schema": schema},
        {"type": "custom", "name": "f", "description": "d", "input_schema": schema},
    ]
    for item in items:
        assert read(tools=[item]).tools == read(tools=[tool("f", description="d", parameters=schema)]).tools
    assert len(read(tools=[tool(), tool()]).tools) == 1


EMPTY: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (None, EMPTY),
        ({}, EMPTY),
        ({"type": "object"}, EMPTY),
        ({"type": "object", "properties": {}, "required": []}, EMPTY | {"required": []}),
        ({"properties": {"a": {}}, "required": ["a"]}, EMPTY | {"properties": {"a": {}}, "required": ["a"]}),
        ({"type": "object", "additionalProperties": True}, EMPTY | {"additionalProperties": True}),
        ({"required": ["a"]}, {"type": "object", "properties": {}, "required": ["a"]}),
        ({"allOf": [{"properties": {}}]}, {"type": "object", "properties": {}, "allOf": [{"properties": {}}]}),
    ],
)
def test_a_forced_call_has_the_parameters_that_are_declared(parameters: Any, schema: Any) -> None:
    assert read(tools=[tool("f", parameters=parameters)], tool_choice="f").schema == schema


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool(""), tool()]}, "tools[0].function.name"),
        ({"tools": [tool(), tool(description="other")]}, "tools[1].function.name"),
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": "always"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": tool("g")}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "custom"}}, "tool_choice.type"),
        ({"tools": [tool()], "tool_choice": {"type": ["function"]}}, "tool_choice.type"),
        ({"tools": [tool()], "tool_choice": {"mode": "always"}}, "tool_choice.type"),
        ({"tools": [tool()], "tool_choice": "tool"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"functions": [{}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
    ],
)
def test_refusals(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        read(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize("document", [None, "https://example.com/tool.json", "#/properties/arguments"])
def test_references_are_found_within_their_own_tool(document: str | None) -> None:
    parameters = {
        "type": "object",
        "properties": {"$ref": {"$ref": "#/$defs/a~1b"}, "me": {"$ref": "#"}, "x": {"const": {"$ref": "#/y"}}},
        "$defs": {"a/b": {"type": "integer"}},
        **({"$id": document} if document else {}),
    }
    other = {"type": "object", "properties": {"$ref": {"$ref": "#/$defs/a~1b"}}, "$defs": {"a/b": {"type": "null"}}}
    tools = [Tool(name="e", parameters=other), Tool(name="f", parameters=parameters)]
    schema = calls_schema(tools, parallel=True)
    for name, arguments, valid in (
        ("f", {"$ref": 3, "me": {"me": {"$ref": 4}}, "x": {"$ref": "#/y"}}, True),
        ("f", {"me": {"me": {"$ref": None}}}, False),
        ("e", {"$ref": None}, True),
        ("e", {"$ref": 3}, False),
    ):
        assert Draft202012Validator(schema).is_valid([{"name": name, "arguments": arguments}]) == valid
    assert "$ref" in json.dumps(checked(json.dumps(schema)))


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


@pytest.mark.parametrize("end", range(60))
def test_a_forced_call_that_is_cut_off_leaks_nothing(end: int) -> None:
    text = '[{"name": "f", "arguments": {"a": "b"}}, {"name": "g", "arguments": {"c": 1'
    for reader, answer, name in ((RequiredCalls(), text[:end], "f"), (NamedCall("h"), text[28 : 28 + end], "h")):
        content, _, calls = gathered([reader.feed(answer), reader.finish()])
        assert content == ""
        assert [each for each, _ in calls[:1]] in ([], [name])
