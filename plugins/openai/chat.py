"""POST /v1/chat/completions: what do the parts of an answer look like as a message?"""

from __future__ import annotations

from typing import Any

from maxserve.core.answers.answering import Answering, Generation
from maxserve.core.answers.bodies import ChatBody
from maxserve.core.answers.parts import Answer, Part, ToolCall
from maxserve.core.nouns import CallDelta
from maxserve.plugins.openai.chunks import json_of


class Chat:
    """The `Wording` of chat completions."""

    path = "/v1/chat/completions"
    body = ChatBody
    id_prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def begin(self, body: ChatBody, user: str) -> Generation:
        return await self._answering.chat(body, user=user)

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if reasoning := answer.reasoning:
            message["reasoning_content"] = message["reasoning"] = reasoning
        if calls := answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [_call(call) for call in calls]
        return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}

    def opening(self, index: int) -> bytes:
        return _delta(index, b'{"role":"assistant","content":""}')

    def part(self, index: int, part: Part) -> bytes | None:
        if part.calls or part.reasoning:
            return _delta(index, json_of(_rare_delta(part)))
        return _delta(index, b'{"content":' + json_of(part.content) + b"}") if part.content else None

    def closing(self, index: int, part: Part) -> bytes:
        return _delta(index, b"{}", json_of(part.finish))


def _rare_delta(part: Part) -> dict[str, Any]:
    """The delta of a part that is more than text. Reasoning goes by both names that clients know it by."""
    delta: dict[str, Any] = {}
    if part.reasoning:
        delta["reasoning_content"] = delta["reasoning"] = part.reasoning
    if part.content:
        delta["content"] = part.content
    if part.calls:
        delta["tool_calls"] = [_call_delta(call) for call in part.calls]
    return delta


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_delta(call: CallDelta) -> dict[str, Any]:
    """The first delta of a call carries its id and name, the others only more of its arguments."""
    if not call.name:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _delta(index: int, delta: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish)
