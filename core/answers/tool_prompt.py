"""How does a model learn of its tools when its chat template knows none?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.core.answers.tools import ToolChoice
from maxserve.core.errors import RequestError
from maxserve.core.model.chat_template import ChatTemplate

_STRANGER = "qzxjk_tool"  # a name no template prints of itself
_HOW = {
    "auto": "To call functions, answer with nothing but a JSON array of calls, each "
    '{"name": "...", "arguments": {...}}. Otherwise answer as usual.',
    "required": 'Answer with nothing but a JSON array of calls, each {"name": "...", "arguments": {...}}.',
    "named": "Answer with nothing but the JSON object of the arguments of this function.",
}


def knows_tools(template: ChatTemplate, special_tokens: Mapping[str, str]) -> bool:
    """Whether the template tells the model of tools."""
    if not template.present:
        return False
    function = {"name": _STRANGER, "description": "", "parameters": {"type": "object", "properties": {}}}
    turns = [{"role": "user", "content": "?"}]
    try:
        text = template.render(turns, tools=[{"type": "function", "function": function}], special_tokens=special_tokens)
    except RequestError:
        return False
    return _STRANGER in text


def told_of_tools(turns: Sequence[dict[str, Any]], choice: ToolChoice) -> list[dict[str, Any]]:
    """The conversation with the tools described in its system message, past calls and their results as plain text."""
    tools = choice.tools if choice.mode == "named" else choice.declared
    described = [{"name": t.name, "description": t.description, "parameters": dict(t.parameters)} for t in tools]
    text = f"You may call these functions:\n{json.dumps(described, ensure_ascii=False)}\n{_HOW[choice.mode]}"
    turns = [_plainly(turn) for turn in turns]
    if turns[0]["role"] in ("system", "developer"):
        return [turns[0] | {"content": _joined(turns[0]["content"], f"\n\n{text}")}, *turns[1:]]
    return [{"role": "system", "content": text}, *turns]


def _plainly(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] == "tool":
        return {"role": "user", "content": _joined("Result of the call: ", turn["content"])}
    calls = turn.get("tool_calls")
    if not calls:
        return turn
    said = [{"name": c["function"]["name"], "arguments": c["function"]["arguments"]} for c in calls]
    content = "\n".join(filter(None, (_text(turn["content"]), json.dumps(said, ensure_ascii=False))))
    return {"role": turn["role"], "content": content}


def _joined(*contents: Any) -> Any:
    """Contents one behind the other: a string, or parts where some of them are images."""
    if not any(_images(content) for content in contents):
        return "".join(map(_text, contents))
    text = "text"
    parts = ([{"type": text, text: content}] if isinstance(content, str) else content for content in contents)
    return [part for some in parts for part in some]


def _images(content: Any) -> bool:
    return not isinstance(content, str) and any(part["type"] != "text" for part in content)


def _text(content: Any) -> str:
    """The text of a message's content: a string, or parts of it."""
    return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")
