"""POST /v1/chat/completions: answers as messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.parsers import CallDelta
from maxserve.plugins.api.common.answer import Answer, TextDelta, ToolCall
from maxserve.plugins.api.common.answering import Answering, Generation
from maxserve.plugins.api.common.bodies import ChatBody
from maxserve.plugins.api.common.logprobs import TokenTexts, chat_logprobs, prompt_logprobs
from maxserve.plugins.api.common.requests import RequestPlan
from maxserve.plugins.api.openai.chunks import joined, json_of
from maxserve.plugins.api.openai.stop_reason import stop_reason


class Chat:
    """The `ChoiceRoute` of chat completions."""

    path = "/v1/chat/completions"
    body = ChatBody
    id_prefix = "chatcmpl-"
    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._texts = TokenTexts(answering.context.tokenizer)

    async def begin(self, body: ChatBody, user: str) -> Generation:
        if body.stream and body.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs come with whole answers only; leave stream out", param="prompt_logprobs"
            )
        return await self._answering.chat(body, user=user)

    def encoder(self, body: ChatBody, plan: RequestPlan) -> ChatEncoder:
        return ChatEncoder(body, plan, self._texts.wanted(body.return_tokens_as_token_ids))


class ChatEncoder:
    """The `ChoiceEncoder` of chat completions."""

    def __init__(self, body: ChatBody, plan: RequestPlan, texts: TokenTexts) -> None:
        self._texts = texts
        self._logprobs = bool(body.logprobs)
        self._prompt_logprobs = body.prompt_logprobs is not None
        self._token_ids = bool(body.return_token_ids)
        self._plain = not (self._logprobs or self._token_ids)
        self._requests = plan.requests
        self._prompt = plan.requests[0].prompt

    def extras(self, answers: Sequence[Answer]) -> dict[str, Any]:
        # Whole answers have these fields in any case, for clients that read them as attributes.
        extras: dict[str, Any] = {"prompt_logprobs": None, "prompt_token_ids": None} if answers else {}
        if self._token_ids:
            extras["prompt_token_ids"] = self._prompt
        if self._prompt_logprobs:
            extras["prompt_logprobs"] = prompt_logprobs(self._texts, answers[0].prompt_logprobs)
        return extras

    def choice(self, index: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
        if reasoning := answer.reasoning:
            message["reasoning_content"] = message["reasoning"] = reasoning
        if calls := answer.calls:
            message["content"] = answer.content or None
            message["tool_calls"] = [_call(call) for call in calls]
        logprobs = chat_logprobs(self._texts, answer.logprobs) if self._logprobs else None
        choice = {
            "index": index,
            "message": message,
            "logprobs": logprobs,
            "finish_reason": answer.finish,
            **stop_reason(self._requests[index], answer.stop, answer.stop_token),
        }
        return choice | {"token_ids": answer.tokens if self._token_ids else None}

    def opening(self, index: int) -> bytes:
        return _delta(index, b'{"role":"assistant","content":""}')

    def delta(self, index: int, delta: TextDelta) -> bytes | None:
        if not self._plain:
            return self._detailed(index, delta)
        if delta.calls or delta.reasoning:
            return _delta(index, json_of(_rare_delta(delta)))
        return _delta(index, b'{"content":' + json_of(delta.text) + b"}") if delta.text else None

    def closing(self, index: int, delta: TextDelta) -> bytes:
        ended = stop_reason(self._requests[index], delta.stop, delta.stop_token)
        return _delta(index, b"{}", json_of(delta.finish_reason), json_of(ended))

    def _detailed(self, index: int, delta: TextDelta) -> bytes | None:
        """A chunk that tells of tokens, also of those whose text is still held back."""
        if not delta.tokens and not (delta.text or delta.calls or delta.reasoning):
            return None
        logprobs = chat_logprobs(self._texts, delta.logprobs) if self._logprobs else None
        choice: dict[str, Any] = {"index": index, "delta": _rare_delta(delta), "logprobs": logprobs}
        if self._token_ids:
            choice["token_ids"] = delta.tokens
        return json_of({**choice, "finish_reason": None})


def _rare_delta(delta: TextDelta) -> dict[str, Any]:
    """A delta that is more than text. Reasoning goes by both names that clients know it by."""
    fields: dict[str, Any] = {}
    if delta.reasoning:
        fields["reasoning_content"] = fields["reasoning"] = delta.reasoning
    if delta.text:
        fields["content"] = delta.text
    if delta.calls:
        fields["tool_calls"] = [_call_delta(call) for call in delta.calls]
    return fields


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _call_delta(call: CallDelta) -> dict[str, Any]:
    """The first delta of a call carries its id and name, the others only more of its arguments."""
    if not call.name:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def _delta(index: int, delta: bytes, finish: bytes = b"null", more: bytes = b"{}") -> bytes:
    """A choice of a stream; `more` is an object with further fields of it."""
    return joined(b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish), more)
