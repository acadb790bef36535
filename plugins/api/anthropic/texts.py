"""The text that the model reads of a content block which is no image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.anthropic.bodies import Source, Text


def text_of(where: str, block: Text) -> str:
    """The text; RequestError for a block that has none, such as a PDF."""
    read = _READ.get(block.type)
    if read is None:
        message = f"{where}.type: a block of type {block.type[:64]!r} is not supported here"
        raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
    return read(where, block)


def missing(where: str) -> RequestError:
    return RequestError(f"{where}: a block of this type needs it", param=where)


def _plain(where: str, block: Text) -> str:
    if block.text is None:
        raise missing(f"{where}.text")
    return block.text


def _document(where: str, block: Text) -> str:
    """A document of text, after its title and what the client says about it."""
    source = block.source
    if not isinstance(source, Source) or source.type not in ("text", "content"):
        message = f"{where}.source: a document of type text or content is expected; no other files are read here"
        raise RequestError(message, param=f"{where}.source", code="unsupported_parameter")
    text = source.data if source.type == "text" else _inner(f"{where}.source.content", source.content)
    if text is None:
        raise missing(f"{where}.source.data")
    return "\n".join(filter(None, (block.title, block.context, text)))


def _search_result(where: str, block: Text) -> str:
    source = block.source if isinstance(block.source, str) else None
    text = _inner(f"{where}.content", block.content)
    return "\n".join(filter(None, (block.title, source, text)))


def _inner(where: str, content: Any) -> str | None:
    """The texts within `content`, which is text or blocks of it."""
    if content is None or isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else [content]
    return "\n".join(
        text_of(f"{where}[{index}]", _block(f"{where}[{index}]", each)) for index, each in enumerate(blocks)
    )


def _block(where: str, value: Any) -> Text:
    try:
        return Text.model_validate(value)
    except ValidationError:
        raise RequestError(f"{where}: a block of content is expected", param=where) from None


def _summary(where: str, block: Text) -> str:
    """A conversation that was summarised elsewhere; one that only its maker can read is refused."""
    if not isinstance(block.content, str):
        message = f"{where}.content: a summary in plain text is expected; encrypted ones cannot be read here"
        raise RequestError(message, param=f"{where}.content", code="unsupported_parameter")
    return block.content


def _reference(where: str, block: Text) -> str:
    """A tool that a search has found. The model knew of all tools from the start."""
    if block.tool_name is None:
        raise missing(f"{where}.tool_name")
    return f"The tool {block.tool_name} can be called."


def _added(_: str, block: Text) -> str:
    return f"The tool {_changed(block)} can be called from here on."


def _removed(_: str, block: Text) -> str:
    return f"The tool {_changed(block)} must not be called from here on."


def _changed(block: Text) -> str:
    named = block.tool or {}
    return str(named.get("name") or named.get("tool_name") or named.get("server_name") or "")


_READ: Mapping[str, Callable[[str, Text], str]] = {
    "text": _plain,
    "document": _document,
    "search_result": _search_result,
    "compaction": _summary,
    "tool_reference": _reference,
    "tool_addition": _added,
    "tool_removal": _removed,
}
