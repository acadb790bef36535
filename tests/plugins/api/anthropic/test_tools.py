"""Tools as Anthropic's clients declare them, as functions."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from maxserve.plugins.api.anthropic.bodies import CountBody
from maxserve.plugins.api.anthropic.tools import tool_fields

OWN = {"name": "f", "input_schema": {"type": "object"}}
USER = {"role": "user", "content": "Hi"}


def fields(*tools: Any, choice: Any = None) -> tuple[dict[str, Any], list[str]]:
    return tool_fields(CountBody.model_validate({"messages": [USER], "tools": list(tools), "tool_choice": choice}))


@pytest.mark.parametrize(
    "more",
    [
        {"type": "custom"},
        {"eager_input_streaming": True},
        {"defer_loading": True},
        {"input_examples": [{"a": 1}], "allowed_callers": ["direct"]},
        {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    ],
)
def test_how_a_tool_is_loaded_changes_nothing(more: Any) -> None:
    said, warnings = fields({**OWN, **more})
    assert said == {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]}
    assert warnings == []


@pytest.mark.parametrize(
    "hosted",
    [
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
        {"type": "web_fetch_20260309", "name": "web_fetch"},
        {"type": "code_execution_20260120", "name": "code_execution"},
        {"type": "tool_search_tool_regex_20251119", "name": "tool_search_tool_regex"},
        {"type": "mcp_toolset", "mcp_server_name": "m"},
    ],
)
@pytest.mark.parametrize("choice", [None, {"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "f"}])
def test_what_runs_at_a_provider_is_left_out_with_a_warning(hosted: Any, choice: Any) -> None:
    said, warnings = fields(OWN, hosted, choice=choice)
    assert [tool["function"]["name"] for tool in said["tools"]] == ["f"]
    [warning] = warnings
    assert "tools[1].type" in warning
    assert hosted["type"] in warning


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ({"type": "bash_20250124", "name": "bash"}, {"command": "ls"}),
        ({"type": "bash_20250124", "name": "bash"}, {"restart": True}),
        (
            {"type": "text_editor_20250728", "name": "str_replace_based_edit_tool", "max_characters": 9},
            {"command": "insert", "path": "a", "insert_line": 0, "insert_text": "x"},
        ),
        (
            {"type": "text_editor_20250124", "name": "str_replace_editor"},
            {"command": "undo_edit", "path": "a"},
        ),
        ({"type": "memory_20250818", "name": "memory"}, {"command": "rename", "old_path": "a", "new_path": "b"}),
    ],
)
def test_tools_known_by_their_type_become_functions(tool: Any, arguments: Any) -> None:
    said, warnings = fields(tool)
    [function] = [each["function"] for each in said["tools"]]
    assert function["name"] == tool["name"]
    assert function["description"]
    jsonschema.validate(arguments, function["parameters"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"command": 5}, function["parameters"])
    assert warnings == []


def test_newer_editors_cannot_undo() -> None:
    said, _ = fields({"type": "text_editor_20250429", "name": "e"})
    assert "undo_edit" not in said["tools"][0]["function"]["parameters"]["properties"]["command"]["enum"]
