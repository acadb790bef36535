"""What does a response consist of? Its items, and the object around them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from maxserve.interfaces.engine import ModelInfo
from maxserve.plugins.api.common.answer import Answer
from maxserve.plugins.api.common.meter import Meter
from maxserve.plugins.api.openai.responses_body import ResponseBody
from maxserve.plugins.api.openai.responses_messages import sealed
from maxserve.plugins.api.openai.responses_tools import Offered, ResponseTools


class OutputItem(msgspec.Struct, kw_only=True):
    """An item of the output while it grows: a "message", "reasoning" or a call to `tool`.

    `seals`: the client wants reasoning as the opaque text that it can send back, too.
    """

    kind: str
    id: str
    text: str = ""  # the arguments of a call
    call_id: str = ""
    tool: Offered | None = None
    seals: bool = False

    def shown(self, status: str) -> dict[str, Any]:
        """The item; one that is "in_progress" has nothing in it yet."""
        head = {"id": self.id, "type": self.kind, "status": status}
        if self.tool is not None:
            return head | self.tool.item(self.text, self.call_id)
        content = [] if status == "in_progress" else [self.part()]
        if self.kind == "reasoning":
            opaque = sealed(self.text) if self.seals and status != "in_progress" else None
            return head | {"summary": [], "content": content, "encrypted_content": opaque}
        return head | {"role": "assistant", "content": content}

    def part(self) -> dict[str, Any]:
        """What a message or reasoning has in it."""
        if self.kind == "reasoning":
            return {"type": "reasoning_text", "text": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}


class NewItems:
    """Makes the items of one response, with its ids and the tools that it may call."""

    def __init__(self, request_id: str, tools: ResponseTools, *, seals: bool = False) -> None:
        self._request_id = request_id
        self._tools = tools
        self._seals = seals

    def message(self, index: int) -> OutputItem:
        return OutputItem(kind="message", id=self._id("msg", index))

    def reasoning(self, index: int) -> OutputItem:
        return OutputItem(kind="reasoning", id=self._id("rs", index), seals=self._seals)

    def call(self, index: int, name: str, call_id: str) -> OutputItem:
        tool = self._tools.called(name)
        return OutputItem(kind=tool.kind.item, id=self._id(tool.kind.prefix, index), call_id=call_id, tool=tool)

    def _id(self, prefix: str, index: int) -> str:
        return f"{prefix}_{self._request_id}_{index}"


def items_of(answer: Answer, new: NewItems) -> list[OutputItem]:
    """Reasoning, then a message unless there are only calls, then the calls."""
    found: list[OutputItem] = []
    if answer.reasoning:
        found.append(new.reasoning(0))
        found[-1].text = answer.reasoning
    if answer.content or not answer.calls:
        found.append(new.message(len(found)))
        found[-1].text = answer.content
    for call in answer.calls:
        found.append(new.call(len(found), call.name, call.id))
        found[-1].text = call.arguments
    return found


def statuses(count: int, finish: str | None) -> tuple[str, list[str]]:
    """The response's status and those of its `count` items: where the limit cut it off, the last is incomplete."""
    if finish != "length":
        return "completed", ["completed"] * count
    return "incomplete", ["completed"] * (count - 1) + ["incomplete"] * min(count, 1)


class ResponseObject:
    """The response around its items, with what was asked for as it was understood."""

    def __init__(
        self, body: ResponseBody, info: ModelInfo, name: str, request_id: str, warnings: Sequence[str]
    ) -> None:
        self._fields = {
            "id": f"resp_{request_id}",
            "object": "response",
            "created_at": int(time.time()),
            "model": name,
            **_echoed(body, info),
        } | ({"warnings": list(warnings)} if warnings else {})

    def shown(
        self,
        status: str,
        output: Iterable[dict[str, Any]] = (),
        *,
        usage: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        details = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return self._fields | {
            "status": status,
            "error": error,
            "incomplete_details": details,
            "output": list(output),
            "usage": usage,
            "completed_at": int(time.time()) if status == "completed" else None,
        }


def usage_of_response(meter: Meter, reasoning: int) -> dict[str, Any]:
    return {
        "input_tokens": meter.prompt_tokens,
        "input_tokens_details": {"cached_tokens": meter.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": meter.generated_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": meter.prompt_tokens + meter.generated_tokens,
    }


def _echoed(body: ResponseBody, info: ModelInfo) -> dict[str, Any]:
    """The request's fields as answers repeat them, with the defaults that were taken for those left out."""
    given = body.model_dump(include=_REPEATED, by_alias=True)
    sampling = {name: _sampling(body, info, name) for name in ("temperature", "top_p")}
    reasoning = {"effort": None, "summary": None} | {k: v for k, v in (given["reasoning"] or {}).items() if v}
    return {
        **given,
        **sampling,
        "tools": [tool.model_dump(exclude_unset=True) for tool in body.tools or ()],
        "tool_choice": given["tool_choice"] or "auto",
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "text": _without_nulls(given["text"] or {}) | ({} if body.text and body.text.format else _PLAIN),
        "reasoning": reasoning,
        "metadata": body.metadata or {},
        "truncation": "disabled",
        "store": False,
        "background": False,
        "previous_response_id": None,
        "service_tier": "default",
    }


_REPEATED = {
    "instructions",
    "max_output_tokens",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "text",
    "tool_choice",
    "user",
}
_PLAIN = {"format": {"type": "text"}}


def _sampling(body: ResponseBody, info: ModelInfo, name: str) -> float:
    given = getattr(body, name, None)
    return float(info.defaults.get(name, 1.0) if given is None else given)


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    kept = ((key, _without_nulls(item) if key == "format" and item else item) for key, item in value.items())
    return {key: item for key, item in kept if item is not None}
