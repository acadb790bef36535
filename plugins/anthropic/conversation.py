"""How do Anthropic's turns of blocks become the messages of a chat?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from maxserve.core.errors import RequestError
from maxserve.plugins.anthropic.bodies import Block, CountBody, ResultBlock, Turn

Message = dict[str, Any]
Placed = tuple[str, Block]  # where it stands in the body, and the block


def messages_of(body: CountBody) -> list[Message]:
    """The messages, the system's first. RequestError names the block that is not taken."""
    turns = list(_merged(body.messages))
    names = {block.id: block.name for _, placed in turns for _, block in placed if block.type == "tool_use"}
    messages = [] if not body.system else [_system(body.system)]
    for role, placed in turns:
        messages += [_assistant(placed)] if role == "assistant" else _user(placed, names)
    return messages


def _merged(turns: Sequence[Turn]) -> Iterator[tuple[str, list[Placed]]]:
    """Turns in a row of the same role are one turn, as in Anthropic's API."""
    role, placed = "", list[Placed]()
    for index, turn in enumerate(turns):
        if turn.role != role and placed:
            yield role, placed
            placed = []
        role = turn.role
        placed += _placed(turn.content, f"messages[{index}].content")
    yield role, placed


def _placed(content: str | list[Block], where: str) -> list[Placed]:
    if isinstance(content, str):
        return [(where, Block(type="text", text=content))]
    return [(f"{where}[{index}]", block) for index, block in enumerate(content)]


def _system(system: str | list[Block]) -> Message:
    return {"role": "system", "content": _content([_text(*placed) for placed in _placed(system, "system")])}


def _user(placed: Sequence[Placed], names: dict[str | None, str | None]) -> list[Message]:
    """Text is the user's; each result of a tool is a message of its own, in the order of the blocks."""
    messages: list[Message] = []
    texts: list[str] = []
    for where, block in placed:
        if block.type != "tool_result":
            texts.append(_text(where, block))
            continue
        if texts:
            messages.append({"role": "user", "content": _content(texts)})
            texts = []
        messages.append(_result(where, block, names))
    if texts or not messages:
        messages.append({"role": "user", "content": _content(texts)})
    return messages


def _assistant(placed: Sequence[Placed]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in placed:
        if block.type == "thinking":
            thoughts.append(_needed(block.thinking, f"{where}.thinking"))
        elif block.type == "tool_use":
            calls.append(_call(where, block))
        else:
            texts.append(_text(where, block))
    message: Message = {"role": "assistant", "content": _content(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(where: str, block: Block) -> dict[str, Any]:
    name, arguments = _needed(block.name, f"{where}.name"), json.dumps(block.input or {}, ensure_ascii=False)
    call_id = _needed(block.id, f"{where}.id")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(where: str, block: Block, names: dict[str | None, str | None]) -> Message:
    """A tool's message; that the tool failed is said in words, since chat templates know no other way."""
    call_id = _needed(block.tool_use_id, f"{where}.tool_use_id")
    content = block.content or ""
    if not isinstance(content, str):
        content = "\n".join(_text(f"{where}.content[{index}]", part) for index, part in enumerate(content))
    message = {"role": "tool", "tool_call_id": call_id, "content": f"Error: {content}" if block.is_error else content}
    name = names.get(call_id)
    return message | {"name": name} if name else message


def _text(where: str, block: Block | ResultBlock) -> str:
    if block.type != "text":
        message = f"{where}.type: a block of type {block.type[:64]!r} is not supported here; this server takes text"
        raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
    return _needed(block.text, f"{where}.text")


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise RequestError(f"{where}: a block of this type needs it", param=where)
    return value


def _content(texts: Sequence[str]) -> str | list[dict[str, str]]:
    """One text as it is; several as parts, which the chat template joins or walks through."""
    return "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]
