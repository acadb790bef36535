"""What does an answer consist of while it comes, and when it is whole?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from maxserve.interfaces.parsers import CallDelta
from maxserve.interfaces.request import TokenLogprob
from maxserve.plugins.api.common.answer import Piece


class Part(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step adds to one answer: what a reader sees, and the engine's own account of it.

    `finish` is there once, at the end: "stop", "length" or "tool_calls".
    """

    piece: Piece
    content: str = ""
    reasoning: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A whole call: `arguments` is the JSON text of an object."""

    id: str
    name: str
    arguments: str


class Answer:
    """One answer, gathered from its parts."""

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

    def add(self, part: Part) -> None:
        self._content.append(part.content)
        self._reasoning.append(part.reasoning)
        if part.reasoning and not part.content:
            self.reasoning_tokens += len(part.piece.tokens)
        for call in part.calls:
            self._calls.setdefault(call.index, []).append(call)
        self._tokens.extend(part.piece.tokens)
        self.logprobs.extend(part.piece.logprobs)
        self.prompt_logprobs = self.prompt_logprobs or part.piece.prompt_logprobs
        self.finish, self.stop, self.stop_token = part.finish, part.piece.stop, part.piece.stop_token

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
