"""Grammar back ends: texts held to a schema, an expression, a grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context, Ref

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


__all__ = [
    "GrammarBackend",
    "GrammarChoice",
    "GrammarCompiler",
    "GrammarContext",
    "Matcher",
    "Prepared",
    "allow_tokens",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarBackend(Component):
    """A way to constrain texts by a grammar. `build(GrammarContext)` gives a GrammarCompiler.

    `accepts` are the kinds of constraint it takes; where a request names no back end, the one of highest priority that
    can express the constraint serves. `rollback`: its matchers can take tokens back. `thoughts(matcher, thoughts,
    ends)` gives a Matcher of ThoughtTokens and, behind them, of the text of another one; `ends` end an answer.
    """

    kind: ClassVar[str] = "grammar_backend"

    accepts: frozenset[str] = frozenset()
    rollback: bool = True
    priority: int = 0
    thoughts: Ref = "maxserve.text:ThoughtMatcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarChoice:
    """Whether requests may constrain answers, and whose back end serves where they name none: a name, or "auto"."""

    enabled: bool = True
    backend: str = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarContext(Context):
    """The vocabulary as grammars see it: the bytes of each id of the logits, b"" for ids that are no text.

    `vocab_size` is how many ids the logits have, which may be more than the tokenizer knows; `tokenizer_path` is the
    model's folder.
    """

    vocabulary: Sequence[bytes]
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    tokenizer_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A constraint in a form that `compile` takes without reading it again, `kind` being a word of the back end's own.

    `warnings` has a line for each thing that was left out because it has no say in which texts are valid.
    """

    kind: str
    text: str
    warnings: tuple[str, ...] = ()


def allow_tokens(row: NDArray[np.int32], ids: Iterable[int]) -> None:
    """Makes `row`, which a matcher fills, allow these ids and no others."""
    row[:] = 0
    bits = row.view("uint32")
    for id in ids:
        bits[id // 32] |= 1 << id % 32


class Matcher(Protocol):
    """Follows one text, token by token. One thread at a time uses it.

    Any method may raise: that ends the request it belongs to, and no other.
    """

    def accept(self, token: int) -> None:
        """The text goes on with `token`, which `fill` had allowed and which is no eos."""

    def rollback(self, count: int) -> None:
        """Takes back the last `count` tokens."""

    def fill(self, row: NDArray[np.int32]) -> None:
        """Writes what may come next, a bit per id, the lowest bit first: all of `row`, [ceil(vocab_size / 32)].

        Eos ids are allowed if, and only if, the text may end here.
        """

    def finished(self) -> bool:
        """Whether the text is whole and nothing may follow."""
        ...


class GrammarCompiler(Protocol):
    """Makes matchers for one vocabulary. Several threads may call it at once. To be subclassed, for what has a default.

    `check` and `compile` raise GrammarUnsupported for what they cannot express, naming keyword and path. A server calls
    both in a process that is ended when it takes too much time, memory or stack; what came out well there is compiled
    once more in the worker.
    """

    def check(self, kind: str, text: str) -> Prepared | None:
        """Refuses, in a few milliseconds, what can be known without compiling. `compile` then gets what is returned,
        in the worker too, or `kind` and `text` as they were.
        """
        return None

    def cached(self, kind: str, text: str) -> bool:
        """Whether `compile` would return at once, as it does by default."""
        return True

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        """What makes a matcher for each text; takes its time, within bounds."""
        ...
