"""The tool calls and results of a conversation in the form that a chat template takes.

What a model wrote as arguments may be anything: cut off, no JSON at all, "null". None of it makes a later turn fail.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from maxserve.plugins.api.common.chat_messages import content_text, joined_content

Message = dict[str, Any]
Empty = Literal["absent", "text", "null"]  # what stands for the content of a message that only calls

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_BROKEN = "arguments"  # the name under which a template of objects is given arguments that are none


class CallForm(msgspec.Struct, frozen=True, kw_only=True):
    """How a template takes past calls: arguments as JSON text or as objects, ids of nine letters, results by name.

    `empties` are the forms of a caller's empty content with which the call is shown. `broken_text`: arguments that are
    no object can be given as they are.
    """

    text: bool = False
    short_ids: bool = False
    named: bool = False
    empties: tuple[Empty, ...] = ("absent", "text")
    broken_text: bool = True


def with_form(messages: Sequence[Message], form: CallForm) -> list[Message]:
    """The conversation with its calls and results in `form`."""
    names = _names(messages)
    return [_formed(message, form, names) for message in messages]


def in_words(messages: Sequence[Message]) -> list[Message]:
    """The conversation with past calls as JSON in the assistant's text and their results as text of the user."""
    return [_in_words(message) for message in messages]


def has_calls(messages: Sequence[Message]) -> bool:
    """Whether there are calls or results of any."""
    return any(message.get("role") == "tool" or message.get("tool_calls") for message in messages)


def arguments_object(arguments: Any) -> dict[str, Any] | None:
    """The object that arguments are or say; None for what is none. Nothing at all and null are no arguments: {}."""
    if arguments is None or isinstance(arguments, Mapping):
        return dict(arguments or {})
    if not isinstance(arguments, str):
        return None
    if not arguments.strip():
        return {}
    try:
        value = json.loads(arguments)
        json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be given to a tokenizer
    except (ValueError, RecursionError):
        return None
    return {} if value is None else value if isinstance(value, dict) else None


def arguments_text(arguments: Any) -> str:
    """Arguments as JSON text: those that are text as they came, an object as JSON, nothing and null as {}."""
    if isinstance(arguments, str) and arguments.strip() not in ("", "null"):
        return arguments
    found = arguments_object(arguments)
    return json.dumps(arguments if found is None else found, ensure_ascii=False)


def _formed(message: Message, form: CallForm, names: Mapping[Any, str]) -> Message:
    if message.get("role") == "tool":
        return _result(message, form, names)
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    return _with_content(message, form) | {"tool_calls": [_call(call, form) for call in calls]}


def _result(message: Message, form: CallForm, names: Mapping[Any, str]) -> Message:
    id = message.get("tool_call_id")
    if form.named and "name" not in message:
        message = message | {"name": names.get(id, "")}
    return message | {"tool_call_id": _short(id)} if form.short_ids and "tool_call_id" in message else message


def _with_content(message: Message, form: CallForm) -> Message:
    given: Empty = "absent" if message.get("content") is None else "text"
    if message.get("content") or given in form.empties:
        return message
    rest = {key: value for key, value in message.items() if key != "content"}
    values: dict[Empty, Message] = {"absent": {}, "text": {"content": ""}, "null": {"content": None}}
    return rest | values[form.empties[0]]


def _call(call: Any, form: CallForm) -> Any:
    if not isinstance(call, dict):
        return call
    if form.short_ids and "id" in call:
        call = call | {"id": _short(call["id"])}
    function = call.get("function")
    if isinstance(function, dict):
        return call | {"function": function | {"arguments": _arguments(function.get("arguments"), form)}}
    return call | {"arguments": _arguments(call["arguments"], form)} if "arguments" in call else call


def _arguments(arguments: Any, form: CallForm) -> Any:
    if form.text:
        return arguments_text(arguments)
    found = arguments_object(arguments)
    if found is not None:
        return found
    return arguments_text(arguments) if form.broken_text else {_BROKEN: arguments_text(arguments)}


def _short(id: Any) -> Any:
    """An id of nine letters and digits, the same for the same id."""
    if isinstance(id, str) and _SHORT_ID.fullmatch(id):
        return id
    digest = int.from_bytes(hashlib.blake2b(str(id).encode(errors="replace"), digest_size=8).digest())
    return "".join("abcdefghijklmnopqrstuvwxyz"[digest // 26**i % 26] for i in range(9))


def _names(messages: Sequence[Message]) -> dict[Any, str]:
    """The functions that were called, by the ids of the calls."""
    calls = (call for message in messages for call in message.get("tool_calls") or () if isinstance(call, dict))
    return {call.get("id"): str(_function(call).get("name", "")) for call in calls}


def _function(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function", call)
    return function if isinstance(function, Mapping) else {}


def _in_words(message: Message) -> Message:
    if message.get("role") == "tool":
        return {"role": "user", "content": joined_content("Result of the call: ", message.get("content"))}
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message
    described = [_described(call) for call in calls if isinstance(call, Mapping)]
    content = "\n".join(filter(None, (content_text(message.get("content")), json.dumps(described, ensure_ascii=False))))
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return rest | {"content": content}


def _described(call: Mapping[str, Any]) -> dict[str, Any]:
    function = _function(call)
    found = arguments_object(function.get("arguments"))
    return {"name": function.get("name"), "arguments": function.get("arguments") if found is None else found}
