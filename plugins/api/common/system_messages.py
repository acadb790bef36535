"""System messages where a chat template shows them.

Anthropic's and OpenAI's newer APIs have several system texts, before the conversation and within it, and agents rely on
them. Many templates show the first one only and leave the others out without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from maxserve.plugins.api.common.chat_renderer import ChatRenderer

Message = dict[str, Any]

_SYSTEMS = ("system", "developer")
_BETWEEN = "\n\n"


class SystemMessages:
    """Puts system messages where the served model's template shows them; what it shows stays as it is."""

    def __init__(self, renderer: ChatRenderer) -> None:
        self._renderer = renderer

    def shown(self, messages: Sequence[Message], *, tools: bool) -> list[Message]:
        """The conversation; where need be, those at its beginning are one, and those within it the user's."""
        probe = self._renderer.probe(tools=tools)
        if probe is None:
            return list(messages)
        if not probe.developer:  # a developer whom the template does not know is a system
            messages = [m | {"role": "system"} if m["role"] == "developer" else m for m in messages]
        first = list(takewhile(_is_system, messages))
        later = list(messages[len(first) :])
        if len(first) > 1 and not probe.shows_first(tuple(message["role"] for message in first)):
            first = [_joined(first)]
        if first and not probe.shows_first((first[0]["role"],)):
            return _as_user([*first, *later])
        if all(probe.shows_later(message["role"]) for message in later if _is_system(message)):
            return [*first, *later]
        return [*first, *_as_user(later)]


def _is_system(message: Message) -> bool:
    return message["role"] in _SYSTEMS


def _joined(messages: Sequence[Message]) -> Message:
    """Messages as one of the first one's role: a string, or parts where one of them has images."""
    contents = [_parts(message["content"]) for message in messages]
    if all(part["type"] == "text" for parts in contents for part in parts):
        return messages[0] | {"content": _BETWEEN.join("\n".join(part["text"] for part in parts) for parts in contents)}
    return messages[0] | {"content": [part for parts in contents for part in parts]}


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _as_user(messages: Sequence[Message]) -> list[Message]:
    """The user's messages instead of the system's, joined to one of the user's that stands beside."""
    found: list[Message] = []
    changed = False  # whether the last one of `found` was, or has in it, a system's
    for message in messages:
        system = _is_system(message)
        message = message | {"role": "user"} if system else message
        if found and message["role"] == found[-1]["role"] == "user" and (system or changed):
            found[-1] = _joined([found[-1], message])
        else:
            found.append(message)
            changed = False
        changed = changed or system
    return found
