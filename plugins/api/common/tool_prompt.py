"""Tools described in words, for models whose chat template knows none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.chat_messages import joined_content
from maxserve.plugins.api.common.chat_renderer import ChatRenderer
from maxserve.plugins.api.common.tools import Mode

_STRANGER = "qzxjk_tool"  # a name no template prints of itself
_HOW = {
    "auto": "To call functions, answer with nothing but a JSON array of calls, each "
    '{"name": "...", "arguments": {...}}. Otherwise answer as usual.',
    "required": 'Answer with nothing but a JSON array of calls, each {"name": "...", "arguments": {...}}.',
    "named": "Answer with nothing but the JSON object of the arguments of this function.",
}


def knows_tools(renderer: ChatRenderer) -> bool:
    """Whether the template tells the model of tools."""
    function = {"name": _STRANGER, "description": "", "parameters": {"type": "object", "properties": {}}}
    messages = [{"role": "user", "content": "?"}]
    try:
        text = renderer.render(messages, tools=[{"type": "function", "function": function}])
    except RequestError:
        return False
    return _STRANGER in text


def with_tools_described(
    messages: Sequence[Mapping[str, Any]], functions: Sequence[Mapping[str, Any]], mode: Mode
) -> list[Any]:
    """The conversation with the functions described in its system message, which goes where the template takes it."""
    described = [
        {"name": f["name"], "description": f.get("description", ""), "parameters": f["parameters"]} for f in functions
    ]
    text = f"You may call these functions:\n{json.dumps(described, ensure_ascii=False)}\n{_HOW[mode]}"
    if messages[0]["role"] in ("system", "developer"):
        return [{**messages[0], "content": joined_content(messages[0].get("content"), f"\n\n{text}")}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
