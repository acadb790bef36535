"""What of a client's messages may a template see?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from maxserve.core.errors import RequestError

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
    """Copies a template can work with: absent rather than null fields, reasoning under every name for it."""
    if not messages:
        raise RequestError("messages must not be empty", param="messages")
    conversation = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise RequestError(f"messages[{i}] must be an object with a role and content", param="messages")
        # Templates test whether a field is there; many print "None" for a null one.
        fields = {key: plain(value) for key, value in message.items() if value is not None}
        conversation.append(_with_reasoning(fields))
    return conversation


def join_text_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose lists of text parts became one string, for templates that expect strings."""
    return [
        message | {"content": _joined(message["content"])} if isinstance(message.get("content"), list) else message
        for message in messages
    ]


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    said = next((message[name] for name in _REASONING if name in message), None)
    return message if said is None else {"thinking": said, **message, "reasoning_content": said}


def _joined(parts: list[Any]) -> str:
    return "\n".join(_text(part) for part in parts)


def _text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise RequestError(
        f"this model's chat template takes text only; a part of type {kind!r} was given", param="messages"
    )
