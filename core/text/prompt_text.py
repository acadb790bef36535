"""The text of a prompt, and which of its characters are nothing but text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptText:
    """`literal` are indices of characters that no special token may hold, in order: a client wrote them."""

    text: str
    literal: tuple[int, ...] = ()

    def split(self, separator: str) -> list[PromptText]:
        """The pieces between the separators, a separator with a literal character being none."""
        return [self._piece(start, end) for start, end in self._between(separator)]

    def _between(self, separator: str) -> Iterator[tuple[int, int]]:
        literal, start, at = set(self.literal), 0, self.text.find(separator)
        while at >= 0:
            end = at + len(separator)
            if literal.isdisjoint(range(at, end)):
                yield start, at
                start = end
            else:
                end = at + 1
            at = self.text.find(separator, end)
        yield start, len(self.text)

    def _piece(self, start: int, end: int) -> PromptText:
        return PromptText(self.text[start:end], tuple(at - start for at in self.literal if start <= at < end))

    def holds(self, token: str) -> bool:
        """Whether a token's text is in it, without a literal character."""
        return len(self.split(token)) > 1


def joined(pieces: Sequence[PromptText]) -> PromptText:
    """One prompt of pieces."""
    literal: list[int] = []
    length = 0
    for piece in pieces:
        literal += (length + at for at in piece.literal)
        length += len(piece.text)
    return PromptText("".join(piece.text for piece in pieces), tuple(literal))
