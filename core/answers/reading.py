"""How does the text of an answer become content, reasoning and calls?"""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence

from maxserve.core.nouns import CallDelta, Delta, FinishReason
from maxserve.core.reading import ReadsAnswer

_ALPHABET = string.ascii_letters + string.digits


def new_call_id() -> str:
    """An id as OpenAI's API gives them to calls."""
    return "call_" + "".join(secrets.choice(_ALPHABET) for _ in range(24))


class AnswerReader:
    """Reads one answer: the reasoning is split off first, and calls are looked for in what remains.

    Calls whose parser gives no id get one here; those beyond `most_calls` are left out. `markers` are the special
    tokens that the parsers want to see in the text.
    """

    def __init__(
        self,
        reasoning: ReadsAnswer | None = None,
        tools: ReadsAnswer | None = None,
        *,
        markers: Sequence[str] = (),
        most_calls: int | None = None,
    ) -> None:
        self.markers = markers
        self._reasoning = reasoning
        self._tools = tools
        self._most_calls = most_calls
        self.called = False

    def read(self, text: str, *, last: bool) -> Delta:
        """What a piece of text adds; with `last`, also all that was held back."""
        first = Delta(content=text) if self._reasoning is None else self._reasoning.feed(text)
        if last and self._reasoning is not None:
            first = _joined(first, self._reasoning.finish())
        if self._tools is None:
            return first
        second = self._tools.feed(first.content)
        if last:
            second = _joined(second, self._tools.finish())
        most = self._most_calls
        calls = tuple(self._with_id(call) for call in second.calls if most is None or call.index < most)
        self.called = self.called or bool(calls)
        return Delta(content=second.content, reasoning=first.reasoning, calls=calls)

    def finish_reason(self, finish: FinishReason | None) -> str | None:
        """ "tool_calls" where the model stopped after calls; an answer that was cut off stays "length"."""
        return "tool_calls" if finish == "stop" and self.called else finish

    @staticmethod
    def _with_id(call: CallDelta) -> CallDelta:
        if not call.name or call.id:
            return call
        return CallDelta(index=call.index, id=new_call_id(), name=call.name, arguments=call.arguments)


def _joined(one: Delta, other: Delta) -> Delta:
    return Delta(
        content=one.content + other.content,
        reasoning=one.reasoning + other.reasoning,
        calls=(*one.calls, *other.calls),
    )
