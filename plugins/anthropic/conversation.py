"""How do Anthropic's turns of blocks become the messages of a chat?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from maxserve.core.answers.images import ImageURL
from maxserve.core.errors import RequestError
from maxserve.plugins.anthropic.bodies import Block, CountBody, ResultBlock, Turn

Message = dict[str, Any]
Said = str | ImageURL
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
    """Text and images are the user's; each result of a tool is a message of its own, in the order of the blocks."""
    messages: list[Message] = []
    said: list[Said] = []
    for where, block in placed:
        if block.type != "tool_result":
            said.append(_said(where, block))
            continue
        if said:
            messages.append({"role": "user", "content": _content(said)})
            said = []
        messages.append(_result(where, block, names))
    if said or not messages:
        messages.append({"role": "user", "content": _content(said)})
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
    said = block.content or ""
    content = (
        said if isinstance(said, str) else _joined([_said(f"{where}.content[{i}]", p) for i, p in enumerate(said)])
    )
    if block.is_error:
        content = f"Error: {content}" if isinstance(content, str) else [_part("Error:"), *content]
    message = {"role": "tool", "tool_call_id": call_id, "content": content}
    name = names.get(call_id)
    return message | {"name": name} if name else message


def _said(where: str, block: Block | ResultBlock) -> Said:
    return _image(where, block) if block.type == "image" else _text(where, block)


def _image(where: str, block: Block | ResultBlock) -> ImageURL:
    """Base64 data as the data: URL that it is."""
    where = f"{where}.source"
    source = block.source
    if source is not None and source.type == "base64":
        kind = _needed(source.media_type, f"{where}.media_type")
        return ImageURL.at(where, f"data:{kind};base64,{_needed(source.data, f'{where}.data')}")
    if source is not None and source.type == "url":
        return ImageURL.at(where, _needed(source.url, f"{where}.url"))
    message = f"{where}: a source of type base64 or url is expected; no files are kept here"
    raise RequestError(message, param=where, code="unsupported_parameter")


def _text(where: str, block: Block | ResultBlock) -> str:
    if block.type != "text":
        message = f"{where}.type: a block of type {block.type[:64]!r} is not supported here"
        raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
    return _needed(block.text, f"{where}.text")


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise RequestError(f"{where}: a block of this type needs it", param=where)
    return value


def _content(said: Sequence[Said]) -> str | list[dict[str, Any]]:
    """One text as it is; several, and images, as parts, which the chat template joins or walks through."""
    if not said:
        return ""
    return said[0] if len(said) == 1 and isinstance(said[0], str) else [_part(each) for each in said]


def _joined(said: Sequence[Said]) -> str | list[dict[str, Any]]:
    """Texts alone as one."""
    texts = [each for each in said if isinstance(each, str)]
    return "\n".join(texts) if len(texts) == len(said) else [_part(each) for each in said]


def _part(said: Said) -> dict[str, Any]:
    return {"type": "text", "text": said} if isinstance(said, str) else {"type": "image_url", "image_url": said}
