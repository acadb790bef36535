"""What of a client's messages may a template see?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.core.errors import RequestError

IMAGE_PART = {"type": "image"}  # what chat templates know an image by

# Names under which clients and templates know the text a model thought before it answered.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def plain(value: Any) -> Any:
    """`value` rebuilt from JSON's own types, so that a template can reach no methods but theirs."""
    if value is None or isinstance(value, bool):
        return value
    # A subclass (an enum, …) may carry methods of its own, hence the bare conversions.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(item) for item in value]
    raise RequestError(f"a chat template can be given JSON values only, not {type(value).__name__}", param="messages")


def as_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Copies a template can work with: absent rather than null fields, reasoning under every name for it.

    Arguments of tool calls, which OpenAI's API has as text, become the objects that templates write as JSON themselves.
    """
    if not messages:
        raise RequestError("messages must not be empty", param="messages")
    conversation = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{i}] must be an object with a role and content", param="messages")
        # Templates test whether a field is there; many print "None" for a null one.
        fields = {key: plain(value) for key, value in message.items() if value is not None}
        conversation.append(_with_objects(_with_reasoning(fields), i))
    return conversation


def join_text_parts(messages: list[dict[str, Any]], image: str | None = None) -> list[dict[str, Any]]:
    """Messages whose lists of parts became one string, for templates that expect strings; `image` stands for images."""
    return [
        message | {"content": _joined(message["content"], image)}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    said = next((message[name] for name in _REASONING if name in message), None)
    return message if said is None else {"thinking": said, **message, "reasoning_content": said}


def _with_objects(message: dict[str, Any], index: int) -> dict[str, Any]:
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    where = f"messages[{index}].tool_calls"
    return message | {"tool_calls": [_with_object(call, f"{where}[{i}]") for i, call in enumerate(calls)]}


def _with_object(call: Any, where: str) -> Any:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(text := function.get("arguments"), str):
        return call
    where += ".function.arguments"
    try:
        arguments = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where}: not JSON: {error}", param=where) from error
    if not isinstance(arguments, dict):
        raise RequestError(f"{where}: arguments must be a JSON object", param=where)
    return call | {"function": function | {"arguments": arguments}}


def _joined(parts: list[Any], image: str | None) -> str:
    return "\n".join(_text(part, image) for part in parts)


def _text(part: Any, image: str | None) -> str:
    if isinstance(part, str):
        return part
    if part == IMAGE_PART and image is not None:
        return image
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RequestError(
        f"this model's chat template takes text only; a part of type {kind!r} was given", param="messages"
    )
