"""POST /v1/chat/completions: what do the parts of an answer look like as a message?"""

from __future__ import annotations

from typing import Any

from maxserve.core.answers.answering import Answering, Generation
from maxserve.core.answers.bodies import ChatBody
from maxserve.core.answers.parts import Answer, Part
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
        message = {"role": "assistant", "content": answer.content, "refusal": None}
        return {"index": index, "message": message, "logprobs": None, "finish_reason": answer.finish}

    def opening(self, index: int) -> bytes:
        return _delta(index, b'{"role":"assistant","content":""}')

    def part(self, index: int, part: Part) -> bytes | None:
        return _delta(index, b'{"content":' + json_of(part.content) + b"}") if part.content else None

    def closing(self, index: int, part: Part) -> bytes:
        return _delta(index, b"{}", json_of(part.finish))


def _delta(index: int, delta: bytes, finish: bytes = b"null") -> bytes:
    return b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish)
