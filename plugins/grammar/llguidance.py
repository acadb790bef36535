"""Grammars that are parsed while the text is written (llguidance): nothing is made beforehand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from cachetools import LRUCache
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.interfaces.grammar import GrammarContext, Prepared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.interfaces.grammar import Matcher

OWN = "llguidance"  # kind of what `check` makes: a grammar as LLMatcher takes it
KEPT = 128 * 1024**2  # bytes of grammars whose start is kept
FIXED, GROWTH = 128 * 1024, 64  # bytes that a start takes, and about as many for each character of its grammar


class Compiler:
    """Takes every kind. The vocabulary becomes a tree once, when the compiler is made."""

    def __init__(self, context: GrammarContext) -> None:
        self._tokenizer = LLTokenizer(
            TokenizerWrapper(_Vocabulary(context)), n_vocab=context.vocab_size, eos_token=list(context.eos_token_ids)
        )
        self._limits = LLParserLimits(verbose_errors=False)
        self._starts: LRUCache[str, _Start] = LRUCache(KEPT, getsizeof=lambda start: start.size)
        self._lock = threading.Lock()

    def check(self, kind: str, text: str) -> Prepared:
        return _prepared(kind, text)

    def cached(self, kind: str, text: str) -> bool:
        return _prepared(kind, text).text in self._starts

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        grammar = _prepared(kind, text).text
        with self._lock:
            start = self._starts.get(grammar)
        if start is None:
            start = _Start(self._begin(grammar), FIXED + GROWTH * len(grammar))
            with self._lock, suppress(ValueError):  # larger than all that is kept
                self._starts[grammar] = start
        return lambda: TextMatcher(start.matcher.deep_copy())

    def _begin(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if matcher.is_error():
            raise GrammarUnsupported(_first_line(matcher.get_error()))
        matcher.compute_bitmask()  # the first one is the slowest, and all copies have it
        if matcher.is_error():
            raise GrammarUnsupported(_first_line(matcher.get_error()))
        return matcher


class _Start(msgspec.Struct, frozen=True):
    """A matcher before its text, and about how many bytes it has."""

    matcher: LLMatcher
    size: int


class TextMatcher:
    """A Matcher over llguidance's, which keeps its errors to itself until it is asked."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise ValueError(_first_line(self._matcher.get_error()))

    def rollback(self, count: int) -> None:
        if not self._matcher.rollback(count):
            raise ValueError(_first_line(self._matcher.get_error()))

    def fill(self, row: NDArray[np.int32]) -> None:
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if self._matcher.is_error():
            raise ValueError(_first_line(self._matcher.get_error()))

    def finished(self) -> bool:
        return self._matcher.is_stopped() and not self._matcher.is_error()


class _Vocabulary:
    """What llguidance wants to know of a tokenizer. Ids that are no text are special to it."""

    def __init__(self, context: GrammarContext) -> None:
        self.eos_token_id = context.eos_token_ids[0]
        self.bos_token_id = None
        self.special_token_ids = [i for i, token in enumerate(context.vocabulary) if not token]
        self.tokens = [token or b"<%d>" % i for i, token in enumerate(context.vocabulary)]
        self._ids = {token: i for i, token in enumerate(context.vocabulary) if len(token) == 1}

    def __call__(self, text: bytes) -> list[int]:
        """Bytes one by one: only masks are asked for, and they do not depend on how a text is cut."""
        return [self._ids[text[i : i + 1]] for i in range(len(text)) if text[i : i + 1] in self._ids]


def _prepared(kind: str, text: str) -> Prepared:
    if kind == OWN:
        return Prepared(kind=OWN, text=text)
    from maxserve.plugins.grammar.llguidance_kinds import grammar_of  # a worker is given what was prepared elsewhere

    grammar, warnings = grammar_of(kind, text)
    return Prepared(kind=OWN, text=grammar, warnings=warnings)


def _first_line(message: str) -> str:
    return " ".join(message.split())[:300]
