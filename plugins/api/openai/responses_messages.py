"""The input items of the Responses API as the messages of a chat."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.images import ImageURL
from maxserve.plugins.api.openai.responses_body import Item, Part, ResponseBody
from maxserve.plugins.api.openai.responses_tools import CALLS, FUNCTION, KINDS, OUTPUTS, spoken_name

Message = dict[str, Any]
N = TypeVar("N")

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
# Calls to tools that ran at a provider, with the fields of what was asked and of what came out.
_HOSTED = {
    "file_search_call": ("queries", "results"),
    "code_interpreter_call": ("code", "outputs"),
    "mcp_call": ("arguments", "output"),
}
# Notes about such tools, without anything that the model would have read.
_UNSEEN = frozenset(
    {
        "additional_tools",
        "configuration_update",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_list_tools",
        "web_search_call",
    }
)
_UNKEPT = {
    "item_reference": "this server keeps no items; send the whole of it",
    "compaction": "only its maker can read it; send the conversation, or a summary in a message",
    "compaction_trigger": "this server summarises no conversations; ask for a summary in a message",
}
# Reasoning goes back and forth in `encrypted_content`, since some clients send nothing else of it back.
_SEALED = "maxserve.reasoning.v1:"


def sealed(reasoning: str) -> str:
    """Reasoning as the opaque text that clients send back as it is. It is no secret, and not encrypted."""
    return _SEALED + base64.b64encode(reasoning.encode("utf-8", "replace")).decode()


def unsealed(text: str | None) -> str:
    """The reasoning in such a text; "" for one that another server has made."""
    if not text or not text.startswith(_SEALED):
        return ""
    try:
        return base64.b64decode(text.removeprefix(_SEALED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def messages_of(body: ResponseBody) -> list[Message]:
    """The messages, the instructions first. RequestError names the item that is not taken."""
    messages: list[Message] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        _add(messages, item, f"input[{index}]")
    if not messages:
        raise RequestError("input: nothing in it, nor in instructions, that could be answered", param="input")
    return messages


def _add(messages: list[Message], item: Item, where: str) -> None:
    """Puts one item behind the messages; what the assistant did in a row is one message."""
    kind = item.type or ("message" if item.role is not None else None)
    if kind == "message":
        _add_message(messages, item, where)
    elif kind == "reasoning":
        _add_reasoning(messages, item, where)
    elif kind in CALLS:
        _assistant(messages).setdefault("tool_calls", []).append(_call(item, where))
    elif kind in OUTPUTS:
        messages.append(_result(_call_id(item, where), _output(item, where)))
    elif kind in _HOSTED:
        _add_hosted(messages, item, where)
    elif kind not in _UNSEEN:
        raise _refused(kind, f"{where}.type")


def _refused(kind: str | None, param: str) -> RequestError:
    if kind is None:
        return RequestError(f"{param}: needed, as there is no role", param=param)
    reason = _UNKEPT.get(kind, "this server does not know it")
    message = f"{param}: an item of type {kind[:64]!r} is not supported; {reason}"
    return RequestError(message, param=param, code="unsupported_parameter")


def _add_message(messages: list[Message], item: Item, where: str) -> None:
    role = _needed(item.role, f"{where}.role")
    if item.content is None:
        raise _missing(f"{where}.content")
    contents = _contents(item.content, f"{where}.content")
    if role == "assistant":
        message = _assistant(messages, "content", "tool_calls")
        message["content"] = _joined(contents)
    else:
        alone = contents[0]["text"] if len(contents) == 1 and contents[0]["type"] == "text" else contents
        messages.append({"role": role, "content": alone})


def _add_reasoning(messages: list[Message], item: Item, where: str) -> None:
    """The reasoning itself, in whichever field it came back; one that only another server can read is left out."""
    texts = _texts(item.content, f"{where}.content") or [unsealed(item.encrypted_content)]
    texts = [text for text in texts if text] or _texts(item.summary, f"{where}.summary")
    if texts:
        _assistant(messages, "reasoning_content", "tool_calls")["reasoning_content"] = "\n".join(texts)


def _assistant(messages: list[Message], *over: str) -> Message:
    """The assistant's message at the end, or a new one where the last has something of `over` already."""
    if not messages or messages[-1]["role"] != "assistant" or any(messages[-1].get(name) for name in over):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _call(item: Item, where: str) -> dict[str, Any]:
    tool, kind = CALLS[item.type or ""]
    named = kind in (FUNCTION, KINDS["custom"])
    name = spoken_name(_needed(item.name, f"{where}.name") if named else tool, item.namespace)
    arguments = _needed(kind.arguments(item), f"{where}.{_ARGUMENTS.get(tool, 'arguments')}")
    return _chat_call(_call_id(item, where), name, arguments)


def _call_id(item: Item, where: str) -> str:
    """The id of a call, or of the call that an output belongs to; items of some tools have only one of their own."""
    own = None if (item.type or "").startswith(("function_", "custom_")) else item.id or item.type
    return _needed(item.call_id or own, f"{where}.call_id")


_ARGUMENTS = {"custom": "input", "local_shell": "action", "shell": "action", "apply_patch": "operation"}


def _chat_call(call_id: str, name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def _result(call_id: str, content: Any) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _output(item: Item, where: str) -> Any:
    """What a tool gave: text, parts of content, or any other JSON as text. Tools that were found go by their names."""
    if OUTPUTS[item.type or ""] is KINDS["tool_search"]:
        names = (tool.get("name") for tool in item.tools or () if isinstance(tool, dict))
        return "\n".join(f"Found: {name}" for name in names) or "Found no tools."
    output, param = _needed(item.output, f"{where}.output"), f"{where}.output"
    if isinstance(output, str):
        return output
    if isinstance(output, list) and all(isinstance(part, dict) and "type" in part for part in output):
        return _joined(_contents([_part(part, f"{param}[{index}]") for index, part in enumerate(output)], param))
    return json.dumps(output, ensure_ascii=False)


def _part(value: Any, where: str) -> Part:
    try:
        return Part.model_validate(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        param = f"{where}.{wrong['loc'][0]}" if wrong["loc"] else where
        raise RequestError(f"{param}: {wrong['msg']}", param=param) from None


def _add_hosted(messages: list[Message], item: Item, where: str) -> None:
    asked, gave = _HOSTED[item.type or ""]
    given = item.model_dump(exclude_none=True)
    name = item.name or (item.type or "").removesuffix("_call")
    call_id = item.call_id or item.id or where
    arguments = given.get(asked) if asked == "arguments" else {asked: given.get(asked)}
    _assistant(messages).setdefault("tool_calls", []).append(_chat_call(call_id, name, arguments or {}))
    result = given.get(gave, given.get("error", ""))
    messages.append(_result(call_id, result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)))


def _texts(content: str | Sequence[Part] | None, where: str) -> list[str]:
    if content is None or isinstance(content, str):
        return [content] if content else []
    return [_text(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _text(part: Part, where: str) -> str:
    if part.type == "refusal":
        return _needed(part.refusal, f"{where}.refusal")
    if part.type not in _TEXTS:
        message = (
            f"{where}.type: content of type {part.type[:64]!r} is not supported; this server takes text and images"
        )
        raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
    return _needed(part.text, f"{where}.text")


def _contents(content: str | Sequence[Part], where: str) -> list[dict[str, Any]]:
    """Texts and images as the parts of a chat's message."""
    if isinstance(content, str):
        return [{"type": "text", "text": text} for text in _texts(content, where)]
    return [_content(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _content(part: Part, where: str) -> dict[str, Any]:
    if part.type != "input_image":
        return {"type": "text", "text": _text(part, where)}
    if part.file_id is not None:
        message = f"{where}.file_id: no files are kept here; give an image_url"
        raise RequestError(message, param=f"{where}.file_id", code="unsupported_parameter")
    image = ImageURL.at(f"{where}.image_url", _needed(part.image_url, f"{where}.image_url"))
    image.detail = part.detail
    return {"type": "image_url", "image_url": image}


def _joined(contents: Sequence[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Texts alone as one."""
    texts = [part["text"] for part in contents if part["type"] == "text"]
    return "\n".join(texts) if len(texts) == len(contents) else list(contents)


def _needed(value: N | None, where: str) -> N:
    if value is None:
        raise _missing(where)
    return value


def _missing(where: str) -> RequestError:
    return RequestError(f"{where}: an item of this type needs it", param=where)
