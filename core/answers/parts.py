"""What does an answer consist of while it comes, and when it is whole?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from maxserve.core.model.answer import Piece


class Part(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one step adds to one answer: text, and the engine's own account of it.

    `finish` is there once, at the end.
    """

    piece: Piece
    content: str = ""
    finish: str | None = None


class Answer:
    """One answer, gathered from its parts."""

    def __init__(self) -> None:
        self.finish: str | None = None
        self._content: list[str] = []
        self._tokens: list[int] = []

    def add(self, part: Part) -> None:
        if part.content:
            self._content.append(part.content)
        self._tokens.extend(part.piece.tokens)
        self.finish = part.finish

    @property
    def content(self) -> str:
        return "".join(self._content)

    @property
    def tokens(self) -> Sequence[int]:
        """Its tokens, the one that ended it included."""
        return self._tokens


def answers(count: int) -> list[Answer]:
    return [Answer() for _ in range(count)]


def joined(parts: Iterable[Part]) -> Answer:
    """The answer that `parts` make up."""
    answer = Answer()
    for part in parts:
        answer.add(part)
    return answer
