"""Answers as messages of content blocks, whole and as events."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from maxserve.http import Failure
from maxserve.interfaces.parsers import CallDelta
from maxserve.plugins.api.anthropic.failures import failure_body
from maxserve.plugins.api.common.answer import Answer, TextDelta
from maxserve.plugins.api.common.event_stream import event
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.common.text_route import StreamEncoder

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


def message(request_id: str, model: str, meter: Meter, warnings: Sequence[str]) -> dict[str, Any]:
    """A message without content and without an end."""
    head: dict[str, Any] = {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage(meter),
    }
    return head | {"warnings": list(warnings)} if warnings else head


def usage(meter: Meter) -> dict[str, Any]:
    """Prompt tokens that were cached are not among the input tokens, as Anthropic counts."""
    return {
        "input_tokens": meter.prompt_tokens - meter.cached_tokens,
        "output_tokens": meter.generated_tokens,
        "cache_creation_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "cache_read_input_tokens": meter.cached_tokens,
        "service_tier": "standard",
    }


def blocks(answer: Answer) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if answer.reasoning:
        found.append({"type": "thinking", "thinking": answer.reasoning, "signature": _signature([answer.reasoning])})
    if answer.content:
        found.append({"type": "text", "text": answer.content})
    for call in answer.calls:
        found.append({"type": "tool_use", "id": call.id, "name": call.name, "input": _object(call.arguments)})
    return found


def ending(finish: str | None, stop: str | None, meter: Meter | None = None) -> dict[str, Any]:
    """Why the message ended, and the stop sequence that did it.

    Fewer tokens than `max_tokens` allows, and cut off: the context of the model was full.
    """
    reason = "stop_sequence" if stop is not None else _REASONS.get(finish or "stop", "end_turn")
    if reason == "max_tokens" and meter is not None and meter.generated_tokens < (meter.max_tokens or 0):
        reason = "model_context_window_exceeded"
    return {"stop_reason": reason, "stop_sequence": stop}


class MessageEvents(StreamEncoder):
    """One content block is open at a time."""

    def __init__(self, head: Mapping[str, Any], request_id: str, meter: Meter) -> None:
        self._head = head
        self._request_id = request_id
        self._meter = meter
        self._open: str | int | None = None  # "thinking", "text", or the number of a call
        self._blocks = 0
        self._thoughts: list[str] = []

    def opening(self) -> bytes:
        start = _event("message_start", message=dict(self._head) | {"usage": usage(self._meter)})
        return start + _event("ping")

    def delta(self, index: int, delta: TextDelta) -> bytes:
        data = b""
        if delta.reasoning:
            data += self._in("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            data += self._delta({"type": "thinking_delta", "thinking": delta.reasoning})
            self._thoughts.append(delta.reasoning)
        if delta.text:
            data += self._in("text", {"type": "text", "text": ""})
            data += self._delta({"type": "text_delta", "text": delta.text})
        return data + b"".join(map(self._call, delta.calls))

    def closing(self, index: int, delta: TextDelta) -> bytes:
        end = _event(
            "message_delta", delta=ending(delta.finish_reason, delta.stop, self._meter), usage=usage(self._meter)
        )
        return self._closed() + end + _event("message_stop")

    def failed(self, failure: Failure) -> bytes:
        return event(failure_body(failure, self._request_id), b"error")

    def _call(self, call: CallDelta) -> bytes:
        data = self._in(call.index, {"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
        return data + self._delta({"type": "input_json_delta", "partial_json": call.arguments})

    def _in(self, kind: str | int, block: Mapping[str, Any]) -> bytes:
        """Opens `block` unless one of its kind is open."""
        if self._open == kind:
            return b""
        closed = self._closed()
        self._open = kind
        return closed + _event("content_block_start", index=self._blocks, content_block=block)

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        signed = self._signed() if self._open == "thinking" else b""
        self._open = None
        self._blocks += 1
        return signed + _event("content_block_stop", index=self._blocks - 1)

    def _signed(self) -> bytes:
        signature, self._thoughts = _signature(self._thoughts), []
        return self._delta({"type": "signature_delta", "signature": signature})

    def _delta(self, delta: Mapping[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._blocks, delta=delta)


def _event(name: str, /, **content: Any) -> bytes:
    return event(msgspec.json.encode({"type": name, **content}), name.encode())


def _signature(thoughts: Iterable[str]) -> str:
    """A digest: clients send thinking back only if it is signed. It is not looked at when it comes back."""
    digest = hashlib.sha256()
    for thought in thoughts:
        digest.update(thought.encode("utf-8", "replace"))
    return digest.hexdigest()


def _object(arguments: str) -> Any:
    """The input of a call. What was cut off by the end of the answer is no JSON: there is no input then."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
