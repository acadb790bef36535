"""Grammar back ends for languages that are followed byte by byte."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from maxserve.interfaces.grammar import GrammarCompiler, GrammarContext, allow_tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

S = TypeVar("S", bound=Hashable)

KEPT = 1024  # states whose tokens are remembered


class ByteGrammar(GrammarCompiler, Generic[S]):
    """A GrammarCompiler in three methods, to be subclassed: where texts begin, how they go on, and where they may end.

    A state is any hashable value that says of a text how it may go on; texts with the same state go on in the same
    ways. The tokens that may follow are found along the bytes that may follow, so that the work is as large as what a
    state allows: a language in which nearly every token may come takes a second with a large vocabulary.
    """

    def __init__(self, context: GrammarContext) -> None:
        self.vocabulary, self.eos = context.vocabulary, context.eos_token_ids
        ends = frozenset(context.eos_token_ids)
        self._sorted = sorted((text, id) for id, text in enumerate(context.vocabulary) if text and id not in ends)
        self._allowed: dict[S, list[int]] = {}

    @abstractmethod
    def start(self, kind: str, text: str) -> S:
        """The state of the empty text under a constraint; GrammarUnsupported for what cannot be expressed."""

    @abstractmethod
    def follow(self, state: S, byte: int) -> S | None:
        """The state with one byte more; None where it cannot follow."""

    @abstractmethod
    def may_end(self, state: S) -> bool:
        """Whether the text may end in this state."""

    def compile(self, kind: str, text: str) -> Callable[[], ByteMatcher[S]]:
        first = self.start(kind, text)
        return lambda: ByteMatcher(self, first)

    def after(self, state: S, text: bytes) -> S:
        """The state behind `text`; ValueError where that cannot follow."""
        for byte in text:
            following = self.follow(state, byte)
            if following is None:
                raise ValueError(f"{text!r} cannot follow here")
            state = following
        return state

    def allowed(self, state: S) -> list[int]:
        """The ids of the tokens that may follow, without eos."""
        found = self._allowed.get(state)
        if found is None:
            if len(self._allowed) >= KEPT:
                self._allowed.clear()
            found = self._allowed[state] = list(self._along(state, 0, len(self._sorted), 0))
        return found

    def _along(self, state: S, start: int, stop: int, depth: int) -> Iterator[int]:
        """Of the sorted tokens from `start` to before `stop`, whose first `depth` bytes led here, those that fit."""
        while start < stop and len(self._sorted[start][0]) == depth:
            yield self._sorted[start][1]
            start += 1
        while start < stop:
            beginning = self._sorted[start][0][: depth + 1]
            end = bisect_right(self._sorted, beginning, start, stop, key=lambda each: each[0][: depth + 1])
            following = self.follow(state, beginning[depth])
            if following is not None:
                yield from self._along(following, start, end, depth + 1)
            start = end


class ByteMatcher(Generic[S]):
    """A Matcher of a ByteGrammar: the state behind every token."""

    def __init__(self, grammar: ByteGrammar[S], first: S) -> None:
        self._grammar = grammar
        self._states = [first]

    def accept(self, token: int) -> None:
        self._states.append(self._grammar.after(self._states[-1], self._grammar.vocabulary[token]))

    def rollback(self, count: int) -> None:
        del self._states[len(self._states) - count :]

    def fill(self, row: NDArray[np.int32]) -> None:
        state = self._states[-1]
        ends = self._grammar.eos if self._grammar.may_end(state) else ()
        allow_tokens(row, (*self._grammar.allowed(state), *ends))

    def finished(self) -> bool:
        state = self._states[-1]
        return self._grammar.may_end(state) and not self._grammar.allowed(state)
