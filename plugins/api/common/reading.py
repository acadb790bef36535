"""The text of an answer, read as content, reasoning and calls."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence

from maxserve.interfaces.parsers import CallDelta, Delta, ReadsAnswer, Tool
from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.call_arguments import CallArguments
from maxserve.plugins.api.common.json_text import encodable

_ALPHABET = string.ascii_letters + string.digits


def new_call_id() -> str:
    """An id as OpenAI's API gives them to calls."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class AnswerReader:
    """Reads one answer: the reasoning is split off first, and calls are looked for in what remains.

    Calls whose parser gives no id get one here; those beyond `most_calls` are left out. The arguments that leave are
    always the JSON text of an object, by the types of the `declared` tools, whatever the parser tells; those of a call
    that the model itself did not complete are completed, and those of an answer that was cut off stay as far as they
    came. All text can be encoded. `markers` are the special tokens that the parsers want to see in the text.
    """

    def __init__(
        self,
        reasoning: ReadsAnswer | None = None,
        tools: ReadsAnswer | None = None,
        *,
        markers: Sequence[str] = (),
        most_calls: int | None = None,
        declared: Sequence[Tool] = (),
        tells_reasoning: bool = True,
    ) -> None:
        self.markers = markers
        self._reasoning = reasoning
        self._tools = tools
        self._most_calls = most_calls
        self._declared = {tool.name: tool.parameters for tool in declared}
        self._tells_reasoning = tells_reasoning
        self._index = -1  # of the call that is open
        self._arguments = CallArguments()
        self.called = False

    def read(self, text: str, *, last: bool, cut: bool = False) -> Delta:
        """What a piece of text adds; with `last`, also all that was held back.

        `cut`: the text ends because it had to, and not because the model was done.
        """
        first = Delta(content=text) if self._reasoning is None else self._reasoning.feed(text)
        if last and self._reasoning is not None:
            first = _joined(first, self._reasoning.finish())
        if not self._tells_reasoning:
            first = Delta(content=first.content, calls=first.calls)
        if self._tools is None:
            return _encodable(first)
        second = self._tools.feed(first.content)
        if last:
            second = _joined(second, self._tools.finish())
        calls = [told for call in second.calls for told in self._told(call)]
        if last and not cut:
            calls += self._closed()
        self.called = self.called or bool(calls)
        return _encodable(Delta(content=second.content, reasoning=first.reasoning, calls=tuple(calls)))

    def _told(self, call: CallDelta) -> list[CallDelta]:
        """What leaves of a delta, and before it what completes the call before."""
        told: list[CallDelta] = []
        if call.index > self._index:
            told = self._closed()
            self._index = call.index
            self._arguments = CallArguments(self._kind(call.name))
        if self._most_calls is not None and call.index >= self._most_calls:
            return told
        arguments, call_id = self._arguments.feed(call.arguments), call.id
        if call.name:
            call_id = call_id or new_call_id()
        elif not arguments:
            return told
        return [*told, CallDelta(index=call.index, id=call_id, name=call.name, arguments=arguments)]

    def _closed(self) -> list[CallDelta]:
        missing = self._arguments.close() if self._index >= 0 else ""
        over = self._most_calls is not None and self._index >= self._most_calls
        return [CallDelta(index=self._index, arguments=missing)] if missing and not over else []

    def _kind(self, name: str) -> ArgumentType | None:
        return ArgumentType(self._declared[name]) if name in self._declared else None


def _joined(one: Delta, other: Delta) -> Delta:
    return Delta(
        content=one.content + other.content,
        reasoning=one.reasoning + other.reasoning,
        calls=(*one.calls, *other.calls),
    )


def _encodable(delta: Delta) -> Delta:
    """`delta` without lone surrogates: a model can spell them in JSON, and UTF-8 does not have them."""
    if delta.content.isascii() and delta.reasoning.isascii() and not delta.calls:
        return delta
    calls = (
        CallDelta(index=call.index, id=encodable(call.id), name=encodable(call.name), arguments=call.arguments)
        for call in delta.calls
    )
    return Delta(content=encodable(delta.content), reasoning=encodable(delta.reasoning), calls=tuple(calls))
