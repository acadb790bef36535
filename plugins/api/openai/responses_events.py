"""The events of a streamed response."""

from __future__ import annotations

from typing import Any

import msgspec

from maxserve.http import Failure, capped
from maxserve.interfaces.parsers import CallDelta
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.event_stream import event
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.common.text_route import StreamEncoder
from maxserve.plugins.api.openai.failures import failure_type
from maxserve.plugins.api.openai.responses_items import (
    NewItems,
    OutputItem,
    ResponseObject,
    statuses,
    usage_of_response,
)

_TEXT_EVENTS = {
    "message": "response.output_text",
    "reasoning": "response.reasoning_text",
    "function_call": "response.function_call_arguments",
}
_FREEFORM = "response.custom_tool_call_input"


class ResponseEvents(StreamEncoder):
    """One item is open at a time, and each event has the next number."""

    def __init__(self, response: ResponseObject, new: NewItems, meter: Meter) -> None:
        self._response = response
        self._new = new
        self._meter = meter
        self._items: list[OutputItem] = []
        self._open: str | int | None = None  # "message", "reasoning", or the number of a call
        self._number = 0
        self._reasoning = 0  # tokens

    def opening(self) -> bytes:
        response = self._response.shown("in_progress")
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def delta(self, index: int, delta: TextDelta) -> bytes:
        data = b""
        if delta.reasoning:
            self._reasoning += 0 if delta.text else len(delta.tokens)
            data += self._in("reasoning") + self._delta(delta.reasoning)
        if delta.text:
            data += self._in("message") + self._delta(delta.text)
        return data + b"".join(map(self._call, delta.calls))

    def closing(self, index: int, delta: TextDelta) -> bytes:
        answered = any(item.kind != "reasoning" for item in self._items)
        data = b"" if answered else self._in("message")  # an answer of nothing is an empty message
        status, each = statuses(len(self._items), delta.finish_reason)
        data += self._closed(each[-1])
        output = [item.shown(state) for item, state in zip(self._items, each, strict=True)]
        usage = usage_of_response(self._meter, self._reasoning)
        return data + self._event(f"response.{status}", response=self._response.shown(status, output, usage=usage))

    def failed(self, failure: Failure) -> bytes:
        code, message = failure.code or failure_type(failure), capped(failure.message)
        output = [item.shown("incomplete") for item in self._items]
        response = self._response.shown("failed", output, error={"code": code, "message": message})
        data = self._event("error", code=code, message=message, param=failure.param)
        return data + self._event("response.failed", response=response)

    def _call(self, call: CallDelta) -> bytes:
        return self._in("call", call) + self._delta(call.arguments)

    def _in(self, kind: str, call: CallDelta | None = None) -> bytes:
        """Opens an item unless the one that is meant is open."""
        mark = kind if call is None else call.index
        if self._open == mark:
            return b""
        data = self._closed("completed")
        self._open = mark
        item = self._made(kind, call)
        self._items.append(item)
        data += self._event("response.output_item.added", output_index=self._index, item=item.shown("in_progress"))
        return data if call is not None else data + self._within("response.content_part.added", part=item.part())

    def _made(self, kind: str, call: CallDelta | None) -> OutputItem:
        index = len(self._items)
        if call is not None:
            return self._new.call(index, call.name, call.id)
        return self._new.reasoning(index) if kind == "reasoning" else self._new.message(index)

    def _delta(self, text: str) -> bytes:
        """More of the open item. Calls to tools that are no functions are shown when they are whole."""
        item = self._items[-1]
        item.text += text
        extra: dict[str, Any] = {"logprobs": []} if item.kind == "message" else {}
        if not text or item.kind not in _TEXT_EVENTS:
            return b""
        return self._within(f"{_TEXT_EVENTS[item.kind]}.delta", delta=text, **extra)

    def _closed(self, status: str) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        item = self._items[-1]
        shown = item.shown(status)
        if item.kind == "function_call":
            data = self._within(f"{_TEXT_EVENTS[item.kind]}.done", name=shown["name"], arguments=item.text)
        elif item.tool is not None:
            data = self._freeform(shown["input"]) if "input" in shown else b""
        else:
            extra: dict[str, Any] = {"logprobs": []} if item.kind == "message" else {}
            data = self._within(f"{_TEXT_EVENTS[item.kind]}.done", text=item.text, **extra)
            data += self._within("response.content_part.done", part=item.part())
        return data + self._event("response.output_item.done", output_index=self._index, item=shown)

    def _freeform(self, text: str) -> bytes:
        delta = self._within(f"{_FREEFORM}.delta", delta=text) if text else b""
        return delta + self._within(f"{_FREEFORM}.done", input=text)

    @property
    def _index(self) -> int:
        return len(self._items) - 1

    def _within(self, name: str, /, **content: Any) -> bytes:
        """An event about the open item; all but calls have one part of content."""
        item = self._items[-1]
        place = {} if item.tool is not None else {"content_index": 0}
        return self._event(name, item_id=item.id, output_index=self._index, **place, **content)

    def _event(self, name: str, /, **content: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event(msgspec.json.encode({"type": name, "sequence_number": number, **content}), name.encode())
