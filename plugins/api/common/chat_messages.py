"""The messages of a client as chat templates take them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.interfaces.errors import RequestError

IMAGE_PART = {"type": "image"}  # what chat templates know an image by

# Names under which clients and templates know the text a model thought before it answered.
_REASONING = ("reasoning_content", "thinking", "reasoning")
_ROLE = re.compile(r"[A-Za-z][\w.-]{0,63}", re.ASCII)  # a role is printed as it is: it must not forge a message


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

    An empty list of tool calls counts as none, since templates test whether the field is there. The older
    `function_call` and the role "function" become a list of one call and the role "tool".
    """
    if not messages:
        raise RequestError("messages must not be empty", param="messages")
    conversation = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{i}] must be an object with a role and content", param="messages")
        # Templates test whether a field is there; many print "None" for a null one.
        fields = {key: plain(value) for key, value in message.items() if value is not None}
        if fields.get("tool_calls") == []:
            del fields["tool_calls"]
        conversation.append(_with_reasoning(_with_tool_role(fields, i)))
    return conversation


def check_role(role: str, where: str) -> str:
    """`role`; RequestError for one that a template could not print without forging another message."""
    if not _ROLE.fullmatch(role):
        message = f"{where}: a role has 1 to 64 letters, digits, '_', '.' and '-', got {role[:80]!r}"
        raise RequestError(message, param=where)
    return role


def join_text_parts(message: dict[str, Any], image: str | None = None) -> dict[str, Any]:
    """The message with its parts as one string, for templates that expect strings; `image` stands for images."""
    content = message.get("content")
    return message | {"content": _joined(content, image)} if isinstance(content, list) else message


def split_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its text as a list of one part, for templates that expect parts."""
    content = message.get("content")
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def joined_content(*contents: Any, between: str = "") -> Any:
    """Contents one behind the other: a string, or parts where some of them are images."""
    filled = [content for content in contents if content]
    if not any(_has_images(content) for content in filled):
        return between.join(content_text(content) for content in filled)
    text = "text"
    parts = [[{"type": text, text: content}] if isinstance(content, str) else content for content in filled]
    return [part for some in parts for part in some]


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or parts of it."""
    return content if isinstance(content, str) else "\n".join(_text(part, "") for part in content or () if part)


def _with_tool_role(message: dict[str, Any], index: int) -> dict[str, Any]:
    function = message.get("function_call")
    if isinstance(function, Mapping) and "tool_calls" not in message:
        rest = {key: value for key, value in message.items() if key != "function_call"}
        call = {"id": _old_id(str(function.get("name"))), "type": "function", "function": function}
        return rest | {"tool_calls": [call]}
    if message.get("role") == "function":
        return {"tool_call_id": _old_id(str(message.get("name"))), **message, "role": "tool"}
    return message


def _old_id(name: str) -> str:
    """The id of a call of the time before calls had one."""
    return f"call_{name}"


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    thoughts = next((message[name] for name in _REASONING if name in message), None)
    return message if thoughts is None else {"thinking": thoughts, **message, "reasoning_content": thoughts}


def _has_images(content: Any) -> bool:
    return not isinstance(content, str) and any(part == IMAGE_PART for part in content)


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
