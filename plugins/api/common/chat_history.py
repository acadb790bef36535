"""What is tried of a conversation until a chat template takes it.

What a template takes stays as it came, so that its text is transformers'. What it refuses is written in another way: a
system message where there is no such role in the user's, calls and results in words, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise, takewhile
from typing import Any

import msgspec

from maxserve.plugins.api.common.chat_messages import join_text_parts, joined_content, split_text
from maxserve.plugins.api.common.past_calls import CallForm, has_calls, in_words, with_form
from maxserve.plugins.api.common.template_probe import TemplateProbe

Message = dict[str, Any]

_OWN = ("system", "user", "assistant", "tool")
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_JOINED = {"content": "\n\n", "reasoning_content": "\n", "thinking": "\n"}


class HistoryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`in_words`: tools are described in words, and so are past calls. `image_text` stands for an image in a string.

    `strings`: where nothing is known of a role's contents, they are strings.
    """

    in_words: bool = False
    image_text: str | None = None
    strings: bool = True


def histories(messages: Sequence[Message], probe: TemplateProbe, options: HistoryOptions) -> Iterator[list[Message]]:
    """The conversation as it is, and then what to try where the template refuses that; nothing twice in a row."""
    tried: list[Message] = []
    for attempt in _attempts(messages, probe, options):
        conversation = [_with_content(message, probe, options) for message in attempt]
        if conversation != tried:
            yield (tried := conversation)


def _attempts(messages: Sequence[Message], probe: TemplateProbe, options: HistoryOptions) -> Iterator[list[Message]]:
    form = probe.calls if has_calls(messages) and not options.in_words else None
    known = [_with_known_developer(message, probe) for message in messages]
    yield in_words(known) if options.in_words else with_form(known, form or CallForm())
    filled = [message if "content" in message else message | {"content": ""} for message in known]
    yield in_words(filled) if options.in_words else with_form(filled, form or CallForm())
    attempt = in_words(filled) if form is None else with_form(_given_once(filled, probe), form)
    yield _in_order([_with_known_role(message, probe) for message in attempt], probe)
    yield _plainest(filled, probe)


def _plainest(messages: Sequence[Message], probe: TemplateProbe) -> list[Message]:
    """The conversation of users and assistants who take turns, a user first; only a system before them."""
    attempt = [_of_three_roles(message) for message in in_words(messages) if _says_something(message)]
    attempt = _with_systems(attempt, probe)
    if not any(message.get("role") == "user" for message in attempt):
        attempt = [message | {"role": "user"} if message.get("role") == "system" else message for message in attempt]
    return _opened(_merged(attempt))


def _given_once(messages: Sequence[Message], probe: TemplateProbe) -> Sequence[Message]:
    """Messages whose text is part of their thoughts, beside calls, where a template takes only one of the two."""
    several = any(_has_all(message) for message in messages)
    return [_in_thoughts(m) for m in messages] if several and not probe.text_beside_thoughts else messages


def _in_thoughts(message: Message) -> Message:
    if not _has_all(message):
        return message
    joined = joined_content(message["reasoning_content"], message["content"], between="\n")
    return message | {"content": "", **{name: joined for name in _THOUGHTS if name in message}}


def _has_all(message: Message) -> bool:
    return bool(message.get("tool_calls") and message.get("content") and message.get("reasoning_content"))


def _with_known_developer(message: Message, probe: TemplateProbe) -> Message:
    """A developer whom the template does not know is a system."""
    return message | {"role": "system"} if message.get("role") == "developer" and not probe.developer else message


def _with_known_role(message: Message, probe: TemplateProbe) -> Message:
    """A message of a role that the template refuses is the user's."""
    role = message.get("role")
    return message if role in _OWN or (isinstance(role, str) and probe.takes_role(role)) else message | {"role": "user"}


def _of_three_roles(message: Message) -> Message:
    return message if message.get("role") in ("system", "assistant") else message | {"role": "user"}


def _says_something(message: Message) -> bool:
    """False for an assistant's message with neither text nor calls, which some templates refuse."""
    return message.get("role") != "assistant" or bool(message.get("content") or message.get("tool_calls"))


def _in_order(messages: Sequence[Message], probe: TemplateProbe) -> list[Message]:
    """Messages in an order that the template takes."""
    ordered = _with_systems(messages, probe)
    if any(a == b for a, b in _neighbours(ordered)) and not probe.repeated_roles:
        ordered = _merged(ordered)
    return ordered if probe.assistant_first else _opened(ordered)


def _with_systems(messages: Sequence[Message], probe: TemplateProbe) -> list[Message]:
    """System messages that the template does not take where they stand are the user's."""
    first = list(takewhile(lambda message: message.get("role") == "system", messages))
    rest = list(messages[len(first) :])
    if first and not probe.first_system:
        first = [message | {"role": "user"} for message in first]
    elif len(first) > 1 and not probe.several_systems:
        first = _merged(first, ("system",))
    if not probe.later_system:
        rest = [message | {"role": "user"} if message.get("role") == "system" else message for message in rest]
    return [*first, *rest]


def _neighbours(messages: Sequence[Message]) -> Iterator[tuple[Any, Any]]:
    roles = [message.get("role") for message in messages]
    return ((a, b) for a, b in pairwise(roles) if a in ("user", "assistant"))


def _merged(messages: Sequence[Message], roles: Sequence[str] = ("user", "assistant")) -> list[Message]:
    """Messages of the same role in a row as one."""
    merged: list[Message] = []
    for message in messages:
        if merged and message.get("role") in roles and merged[-1].get("role") == message["role"]:
            merged[-1] = _one(merged[-1], message)
        else:
            merged.append(message)
    return merged


def _one(first: Message, second: Message) -> Message:
    both = {**first, **second}
    for name, between in _JOINED.items():
        if name in first and name in second:
            both[name] = joined_content(first[name], second[name], between=between)
    if "tool_calls" in first and "tool_calls" in second:
        both["tool_calls"] = [*first["tool_calls"], *second["tool_calls"]]
    return both


def _opened(messages: list[Message]) -> list[Message]:
    """The conversation with a message of the user's before the assistant's first one."""
    at = next((i for i, message in enumerate(messages) if message.get("role") != "system"), len(messages))
    if at == len(messages) or messages[at].get("role") != "assistant":
        return messages
    return [*messages[:at], {"role": "user", "content": ""}, *messages[at:]]


def _with_content(message: Message, probe: TemplateProbe, options: HistoryOptions) -> Message:
    """A message with a string or a list of parts, whichever the template reads of this role."""
    content, role = message.get("content"), message.get("role")
    if isinstance(content, list):
        kind = probe.contents(str(role))
        strings = kind == "strings" or (kind == "unknown" and options.strings)
        return join_text_parts(message, options.image_text) if strings else message
    if isinstance(content, str) and content and probe.contents(str(role)) == "parts":
        return split_text(message)
    return message
