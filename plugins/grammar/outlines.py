"""Grammars that become an automaton over the whole vocabulary beforehand (outlines-core), for regular languages."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from outlines_core import Guide, Index, Vocabulary

from maxserve.interfaces.errors import GrammarUnsupported
from maxserve.interfaces.grammar import GrammarContext, Prepared
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.automaton import count_states, validate_size
from maxserve.plugins.grammar.schema import read_schema
from maxserve.plugins.grammar.schema_regex import schema_regex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.interfaces.grammar import Matcher

OWN = "outlines"  # kind of what `check` makes: an expression with its end
KEPT = 512 * 1024**2  # bytes of indexes
BYTES = 16  # of an entry, or fewer
SAMPLED = 16  # states of which the entries are counted
LONGEST = 50_000  # characters of an expression that becomes an index
ROLLBACK = 64
# Ends every text of an index, spelled by eos alone. outlines-core leaves a state in which a text may end only by tokens
# after which it may end as well, so no state inside a text may be such a one. A text cannot hold this byte itself.
END = b"\x00"


class Compiler:
    """Makes an index per constraint and keeps the latest."""

    def __init__(self, context: GrammarContext) -> None:
        self._context = context
        tokens: dict[bytes, list[int]] = {}
        for id, token in enumerate(context.vocabulary):
            if token and END not in token:
                tokens.setdefault(token, []).append(id)
        # eos of outlines-core's own is an id that no logits have: ours are tokens like any other
        tokens[END] = list(context.eos_token_ids)
        self._vocabulary = Vocabulary(context.vocab_size, tokens)
        self._indexes: LRUCache[str, _Shared] = LRUCache(KEPT, getsizeof=lambda shared: shared.size)
        self._lock = threading.Lock()

    def check(self, kind: str, text: str) -> Prepared:
        if kind == OWN:
            return Prepared(kind=OWN, text=text)
        found = read_schema(text) if kind == "json_schema" else None
        expression = _expression(kind, text) if found is None else schema_regex(found.schema)
        if len(expression) > LONGEST:
            raise GrammarUnsupported(
                f"as an expression it has {len(expression)} characters; at most {LONGEST} are taken"
            )
        whole = rf"(?:{expression})\x00"
        validate_size(whole)
        return Prepared(kind=OWN, text=whole, warnings=() if found is None else found.warnings)

    def cached(self, kind: str, text: str) -> bool:
        return self.check(kind, text).text in self._indexes

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        expression = self.check(kind, text).text
        with self._lock:
            shared = self._indexes.get(expression)
        if shared is None:
            shared = self._made(expression)
            with self._lock, suppress(ValueError):  # larger than all that is kept
                self._indexes[expression] = shared
        return lambda: IndexMatcher(shared)

    def _made(self, expression: str) -> _Shared:
        try:
            return _Shared(Index(expression, self._vocabulary), self._context, count_states(expression))
        except ValueError as error:
            raise GrammarUnsupported(" ".join(str(error).split())[:300]) from error


class _Shared:
    """What all texts of one constraint have in common: the index, and what was found out about its states."""

    def __init__(self, index: Any, context: GrammarContext, states: int) -> None:
        self.index = index
        self.eos = context.eos_token_ids
        self.whole: dict[int, bool] = {}  # nothing may follow
        self._ends: dict[int, bool] = {}
        self.size = BYTES * states * _tokens_of_a_state(index)

    def may_end(self, state: int) -> bool:
        """Whether eos leads to the end; an expression that matches END itself has eos elsewhere too."""
        found = self._ends.get(state)
        if found is None:
            after = self.index.get_next_state(state, self.eos[0])
            found = self._ends[state] = after is not None and self.index.is_final_state(after)
        return found


def _tokens_of_a_state(index: Any) -> int:
    """How many tokens may come next, on an average of some states: an index has an entry for each."""
    rng, state, counts = random.Random(0), index.get_initial_state(), []
    for _ in range(SAMPLED):
        tokens = index.get_allowed_tokens(state) or ()
        counts.append(len(tokens))
        following = index.get_next_state(state, rng.choice(tokens)) if tokens else None
        state = index.get_initial_state() if following is None else following
    return 1 + sum(counts) // len(counts)


class IndexMatcher:
    """A Matcher over one walk through an index."""

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared
        self._guide = Guide(shared.index, ROLLBACK)

    def accept(self, token: int) -> None:
        self._guide.advance(token, return_tokens=False)

    def rollback(self, count: int) -> None:
        self._guide.rollback_state(count)

    def fill(self, row: NDArray[np.int32]) -> None:
        row[:] = 0
        self._guide.write_mask_into(row.ctypes.data, row.size, row.itemsize)
        if not self._shared.may_end(self._guide.get_state()):
            for eos in self._shared.eos:
                row.view("uint32")[eos // 32] &= ~(1 << (eos % 32)) & 0xFFFFFFFF

    def finished(self) -> bool:
        state = self._guide.get_state()
        if not self._shared.may_end(state):
            return False
        whole = self._shared.whole.get(state)
        if whole is None:
            whole = self._shared.whole[state] = set(self._guide.get_tokens()) <= set(self._shared.eos)
        return whole


def _expression(kind: str, text: str) -> str:
    if kind == "json_object":
        raise GrammarUnsupported("any JSON object is no regular language")
    if kind == "regex":
        return regex.read(text).body
    if kind == "choice":
        return "|".join(map(regex.literal, json.loads(text)))
    raise GrammarUnsupported(f"{kind} is not a kind of it")
