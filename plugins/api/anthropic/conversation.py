"""Anthropic's messages of content blocks as the messages of a chat."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.anthropic.bodies import Block, CountBody, InputMessage, Text
from maxserve.plugins.api.anthropic.texts import missing, text_of
from maxserve.plugins.api.common.images import ImageURL

Message = dict[str, Any]
Content = str | ImageURL
Located = tuple[str, Block]  # the path within the body, and the block
Names = dict[str | None, str | None]  # of tools, by the ids of their calls

# Claude Code's first system block. It differs from request to request, so that no prefix would be shared.
_BILLING_HEADER = "x-anthropic-billing-header:"
_CALLS = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
# Encrypted thoughts and notes about the service: nothing that a chat template could show the model.
_UNSEEN = frozenset({"redacted_thinking", "fallback", "mcp_tool_listing"})


def messages_of(body: CountBody) -> list[Message]:
    """The messages, the system prompt first. RequestError names the block that is not taken."""
    merged = list(_merged(body.messages))
    names: Names = {block.id: block.name for _, located in merged for _, block in located if block.type in _CALLS}
    messages = _system(_located(body.system, "system")) if body.system else []
    for role, located in merged:
        if role == "assistant":
            messages += _assistant(located, names)
        else:
            messages += _system(located) if role == "system" else _user(located, names)
    return messages


def _merged(messages: Sequence[InputMessage]) -> Iterator[tuple[str, list[Located]]]:
    """Messages in a row of the same role are one message, as in Anthropic's API."""
    role, located = messages[0].role, list[Located]()
    for index, message in enumerate(messages):
        if message.role != role:
            yield role, located
            located = []
        role = message.role
        located += _located(message.content, f"messages[{index}].content")
    yield role, located


def _located(content: str | list[Block], where: str) -> list[Located]:
    if isinstance(content, str):
        return [(where, Block(type="text", text=content))]
    return [(f"{where}[{index}]", block) for index, block in enumerate(content)]


def _system(located: Sequence[Located]) -> list[Message]:
    texts = [text_of(where, block) for where, block in located if block.type not in _UNSEEN]
    texts = [text for text in texts if not text.startswith(_BILLING_HEADER)]
    return [{"role": "system", "content": _content(texts)}] if texts else []


def _user(located: Sequence[Located], names: Names) -> list[Message]:
    """Text and images are the user's; each result of a tool is a message of its own, in the order of the blocks."""
    messages: list[Message] = []
    contents: list[Content] = []
    for where, block in located:
        if block.type in _UNSEEN:
            continue
        if block.type != "tool_result":
            contents.append(_block_content(where, block))
            continue
        if contents:
            messages.append({"role": "user", "content": _content(contents)})
            contents = []
        messages.append(_result(where, block, names))
    if contents or not messages:
        messages.append({"role": "user", "content": _content(contents)})
    return messages


def _assistant(located: Sequence[Located], names: Names) -> Iterator[Message]:
    """One message; more where the results of tools that ran at a provider stand between its blocks."""
    own: list[Located] = []
    results = 0
    for where, block in located:
        if not block.type.endswith("_tool_result"):
            own.append((where, block))
            continue
        if own:
            yield _assistant_message(own)
        own, results = [], results + 1
        yield _hosted_result(where, block, names)
    if own or not results:
        yield _assistant_message(own)


def _assistant_message(located: Sequence[Located]) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for where, block in located:
        if block.type in _UNSEEN:
            continue
        if block.type == "thinking":
            thoughts.append(_needed(block.thinking, f"{where}.thinking"))
        elif block.type in _CALLS:
            calls.append(_call(where, block))
        else:
            texts.append(text_of(where, block))
    message: Message = {"role": "assistant", "content": _content(texts)}
    if thoughts := [thought for thought in thoughts if thought]:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(where: str, block: Block) -> dict[str, Any]:
    name, arguments = _needed(block.name, f"{where}.name"), json.dumps(block.input or {}, ensure_ascii=False)
    call_id = _needed(block.id, f"{where}.id")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(where: str, block: Block, names: Names) -> Message:
    """A tool's message; that the tool failed is written in words, since chat templates know no other way."""
    content: str | list[dict[str, Any]] = block.content if isinstance(block.content, str) else ""
    if isinstance(block.content, list):
        content = _joined([_block_content(f"{where}.content[{i}]", part) for i, part in enumerate(block.content)])
    elif isinstance(block.content, dict):
        content = json.dumps(block.content, ensure_ascii=False)
    if block.is_error:
        content = f"Error: {content}" if isinstance(content, str) else [_part("Error:"), *content]
    return _tool_message(where, block, content, names)


def _hosted_result(where: str, block: Block, names: Names) -> Message:
    """The result of a tool that ran at a provider, as JSON; what only the provider can read is left out."""
    shown = block.model_dump(include={"content"}, exclude_none=True).get("content", "")
    content = shown if isinstance(shown, str) else json.dumps(_readable(shown), ensure_ascii=False)
    return _tool_message(where, block, content, names)


def _readable(value: Any) -> Any:
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _readable(item) for key, item in value.items() if not key.startswith("encrypted_")}


def _tool_message(where: str, block: Block, content: Any, names: Names) -> Message:
    call_id = _needed(block.tool_use_id, f"{where}.tool_use_id")
    message = {"role": "tool", "tool_call_id": call_id, "content": content}
    name = names.get(call_id)
    return message | {"name": name} if name else message


def _block_content(where: str, block: Text) -> Content:
    return _image(where, block) if block.type == "image" else text_of(where, block)


def _image(where: str, block: Text) -> ImageURL:
    """Base64 data as the data: URL that it is."""
    where = f"{where}.source"
    source = block.source
    if source is not None and not isinstance(source, str):
        if source.type == "base64":
            kind = _needed(source.media_type, f"{where}.media_type")
            return ImageURL.at(where, f"data:{kind};base64,{_needed(source.data, f'{where}.data')}")
        if source.type == "url":
            return ImageURL.at(where, _needed(source.url, f"{where}.url"))
    message = f"{where}: a source of type base64 or url is expected; no files are kept here"
    raise RequestError(message, param=where, code="unsupported_parameter")


def _needed(value: str | None, where: str) -> str:
    if value is None:
        raise missing(where)
    return value


def _content(contents: Sequence[Content]) -> str | list[dict[str, Any]]:
    """One text as it is; several, and images, as parts, which the chat template joins or walks through."""
    if not contents:
        return ""
    return contents[0] if len(contents) == 1 and isinstance(contents[0], str) else [_part(each) for each in contents]


def _joined(contents: Sequence[Content]) -> str | list[dict[str, Any]]:
    """Texts alone as one."""
    texts = [each for each in contents if isinstance(each, str)]
    return "\n".join(texts) if len(texts) == len(contents) else [_part(each) for each in contents]


def _part(content: Content) -> dict[str, Any]:
    if isinstance(content, str):
        return {"type": "text", "text": content}
    return {"type": "image_url", "image_url": content}
