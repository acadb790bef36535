"""An answer: its deltas while it comes, and all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from maxserve.interfaces.parsers import CallDelta
from maxserve.interfaces.request import FinishReason, TokenLogprob


class TextDelta(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step adds to an answer: `text`, `reasoning` and `calls` for its reader, and the engine's account of it.

    `tokens` are the new ones, a final stop or eos token included, which `text` never shows. `generated` counts all
    tokens of the answer so far, `cached` the prompt tokens that were found in the prefix cache. `logprobs`, where they
    are wanted, belong to `tokens` one by one, but an end token that is not shown has none; those of the prompt, from
    its second token on, come with the first delta that has tokens. `finish` is there once, at the end; `stop` is the
    stop string that ended the text, `stop_token` the stop or eos token that did. `called` tells whether the answer has
    had calls so far. `accepted` and `rejected` count the drafts of the answer so far. `queued`, `scheduled`,
    `preemptions` and `transfer` are those of Output.
    """

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    called: bool = False
    tokens: tuple[int, ...] = ()
    finish: FinishReason | None = None
    generated: int = 0
    cached: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    stop: str | None = None
    stop_token: int | None = None
    queued: float = 0.0
    scheduled: float = 0.0
    preemptions: int = 0
    accepted: int = 0
    rejected: int = 0
    transfer: Mapping[str, Any] = {}

    @property
    def finish_reason(self) -> str | None:
        """ "tool_calls" where the model stopped after calls; an answer that was cut off stays "length"."""
        return "tool_calls" if self.called and self.finish == "stop" else self.finish


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A whole call: `arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


class Answer:
    """One answer, gathered from its deltas."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self.stop: str | None = None  # the stop string that ended it
        self.stop_token: int | None = None  # the stop or eos token that did
        self.reasoning_tokens = 0
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[int, list[CallDelta]] = {}
        self._tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self.prompt_logprobs: Sequence[TokenLogprob] = ()
        self.transfer: Mapping[str, Any] = {}

    def add(self, delta: TextDelta) -> None:
        self._content.append(delta.text)
        self._reasoning.append(delta.reasoning)
        if delta.reasoning and not delta.text:
            self.reasoning_tokens += len(delta.tokens)
        for call in delta.calls:
            self._calls.setdefault(call.index, []).append(call)
        self._tokens.extend(delta.tokens)
        self.logprobs.extend(delta.logprobs)
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs
        self.transfer = self.transfer or delta.transfer
        self.finish, self.stop, self.stop_token = delta.finish_reason, delta.stop, delta.stop_token

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def reasoning(self) -> str:
        return "".join(self._reasoning)

    @property
    def calls(self) -> list[ToolCall]:
        """In the order in which they began."""
        return [_joined(deltas) for deltas in self._calls.values()]

    @property
    def tokens(self) -> Sequence[int]:
        """Its tokens, the one that ended it included."""
        return self._tokens


def answers(count: int) -> list[Answer]:
    return [Answer() for _ in range(count)]


def _joined(deltas: Iterable[CallDelta]) -> ToolCall:
    first, *_ = deltas = list(deltas)
    return ToolCall(id=first.id, name=first.name, arguments="".join(delta.arguments for delta in deltas))
