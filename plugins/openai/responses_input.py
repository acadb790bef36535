"""How does a request for a response become the body of a chat?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from maxserve.core.answers.answering import Answering
from maxserve.core.answers.images import ImageURL
from maxserve.core.answers.thinking import ThinkingControls
from maxserve.core.answers.translation import Translator
from maxserve.core.errors import RequestError
from maxserve.plugins.openai.responses_body import (
    Item,
    NamedTool,
    Part,
    ResponseBody,
    ResponseChat,
    TextConfig,
    Tool,
    check_response,
)

Message = dict[str, Any]
N = TypeVar("N")

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


class ResponseTranslation:
    """Makes chat bodies of requests for responses, with warnings about what cannot be done as asked."""

    def __init__(self, answering: Answering) -> None:
        self._translator = Translator(answering, ResponseChat)
        self._controls = ThinkingControls.of(answering.context.template)

    def chat_body(self, body: ResponseBody) -> tuple[ResponseChat, list[str]]:
        """The chat body and the warnings. RequestError for what is refused."""
        check_response(body)
        variables, warnings = self._reasoning(body)
        if "reasoning.encrypted_content" in (body.include or ()):
            warnings.append("include: reasoning is told in plain words, nothing is encrypted")
        said = {
            "model": body.model,
            "messages": messages_of(body),
            "max_tokens": body.max_output_tokens,
            "stream": body.stream,
            "user": body.owner,
            "parallel_tool_calls": body.parallel_tool_calls,
            "chat_template_kwargs": {**(body.chat_template_kwargs or {}), **variables} or None,
            "tools": [_tool(index, tool) for index, tool in enumerate(body.tools)] if body.tools else None,
            "tool_choice": _named(body.tool_choice) if isinstance(body.tool_choice, NamedTool) else body.tool_choice,
            "response_format": _format(body.text) if body.text is not None else None,
        }
        chat = self._translator.body(said, body)
        return chat, self._translator.warnings(body) + warnings

    def _reasoning(self, body: ResponseBody) -> tuple[dict[str, Any], list[str]]:
        asked = body.reasoning
        if asked is None:
            return {}, []
        variables: dict[str, Any] = {}
        warnings: list[str] = []
        if asked.effort is not None:
            variables, warnings = self._controls.effort(asked.effort, param="reasoning.effort")
        if asked.summary is not None or asked.generate_summary is not None:
            warnings.append("reasoning.summary: no summaries are made; reasoning comes as it is")
        return variables, warnings


def messages_of(body: ResponseBody) -> list[Message]:
    """The messages, the instructions first. RequestError names the item that is not taken."""
    messages: list[Message] = []
    if body.instructions:
        messages.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*messages, {"role": "user", "content": body.input}]
    for index, item in enumerate(body.input):
        _add(messages, item, f"input[{index}]")
    return messages


def _add(messages: list[Message], item: Item, where: str) -> None:
    """Puts one item behind the messages; what the assistant did in a row is one message."""
    kind = item.type or ("message" if item.role is not None else None)
    if kind == "message":
        _add_message(messages, item, where)
    elif kind == "reasoning":
        said = _texts(item.content, f"{where}.content") or _texts(item.summary, f"{where}.summary")
        _assistant(messages, "reasoning_content")["reasoning_content"] = "\n".join(said)
    elif kind == "function_call":
        _assistant(messages).setdefault("tool_calls", []).append(_call(item, where))
    elif kind == "function_call_output":
        output = _joined(_needed_contents(item.output, f"{where}.output"))
        messages.append({"role": "tool", "tool_call_id": _needed(item.call_id, f"{where}.call_id"), "content": output})
    else:
        param = f"{where}.type"
        message = (
            f"{param}: needed, as there is no role" if kind is None else f"{param}: {kind[:64]!r} is not supported"
        )
        raise RequestError(message, param=param, code="unsupported_parameter" if kind else None)


def _add_message(messages: list[Message], item: Item, where: str) -> None:
    role = _needed(item.role, f"{where}.role")
    contents = _needed_contents(item.content, f"{where}.content")
    if role == "assistant":
        message = _assistant(messages, "content", "tool_calls")
        message["content"] = _joined(contents)
    else:
        alone = contents[0]["text"] if len(contents) == 1 and contents[0]["type"] == "text" else contents
        messages.append({"role": role, "content": alone})


def _assistant(messages: list[Message], *over: str) -> Message:
    """The assistant's message at the end, or a new one where the last has something of `over` already."""
    if not messages or messages[-1]["role"] != "assistant" or any(messages[-1].get(name) for name in over):
        messages.append({"role": "assistant", "content": ""})
    return messages[-1]


def _call(item: Item, where: str) -> dict[str, Any]:
    name, arguments = _needed(item.name, f"{where}.name"), _needed(item.arguments, f"{where}.arguments")
    call_id = _needed(item.call_id, f"{where}.call_id")
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _texts(content: str | Sequence[Part] | None, where: str) -> list[str]:
    if content is None or isinstance(content, str):
        return [content] if content else []
    return [_text(part, f"{where}[{index}]") for index, part in enumerate(content)]


def _text(part: Part, where: str) -> str:
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


def _needed_contents(content: str | Sequence[Part] | None, where: str) -> list[dict[str, Any]]:
    if content is None:
        raise _missing(where)
    return _contents(content, where)


def _missing(where: str) -> RequestError:
    return RequestError(f"{where}: an item of this type needs it", param=where)


def _tool(index: int, tool: Tool) -> dict[str, Any]:
    if tool.type != "function":
        param = f"tools[{index}].type"
        message = f"{param}: tools of type {tool.type[:64]!r} are not supported; this server takes functions"
        raise RequestError(message, param=param, code="unsupported_parameter")
    _needed(tool.name, f"tools[{index}].name")
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _named(choice: NamedTool) -> dict[str, Any]:
    if choice.type != "function":
        message = f"tool_choice.type: {choice.type[:64]!r} is not supported; this server takes functions"
        raise RequestError(message, param="tool_choice.type", code="unsupported_parameter")
    return {"type": "function", "function": {"name": _needed(choice.name, "tool_choice.name")}}


def _format(text: TextConfig) -> dict[str, Any] | None:
    if text.verbosity not in (None, "medium"):
        message = "text.verbosity: cannot be chosen here; say in the instructions how long answers should be"
        raise RequestError(message, param="text.verbosity", code="unsupported_parameter")
    wanted = text.format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "json_object"}
    _needed(wanted.schema_, "text.format.schema")
    schema = wanted.model_dump(exclude={"type"}, exclude_none=True, by_alias=True)
    return {"type": "json_schema", "json_schema": {"name": "answer", **schema}}
