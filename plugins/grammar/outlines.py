"""Grammars that become an automaton over the whole vocabulary beforehand (outlines-core), for regular languages."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from outlines_core import Guide, Index, Vocabulary

from maxserve.core.errors import GrammarUnsupported
from maxserve.core.grammars import GrammarContext
from maxserve.plugins.grammar import regex
from maxserve.plugins.grammar.automaton import refuse_large
from maxserve.plugins.grammar.schema import checked
from maxserve.plugins.grammar.schema_regex import schema_regex

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from maxserve.core.grammars import Matcher

KEPT = 32  # indexes; each may have megabytes
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
        self._indexes: OrderedDict[tuple[str, str], _Shared] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, kind: str, text: str) -> None:
        expression = _expression(kind, text)
        if len(expression) > LONGEST:
            raise GrammarUnsupported(
                f"as an expression it has {len(expression)} characters; at most {LONGEST} are taken"
            )

    def cached(self, kind: str, text: str) -> bool:
        return (kind, text) in self._indexes

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        key = kind, text
        with self._lock:
            shared = self._indexes.get(key)
        if shared is None:
            expression = rf"(?:{_expression(kind, text)})\x00"
            refuse_large(expression)
            try:
                shared = _Shared(Index(expression, self._vocabulary), self._context)
            except ValueError as error:
                raise GrammarUnsupported(" ".join(str(error).split())[:300]) from error
        with self._lock:
            self._indexes[key] = shared
            self._indexes.move_to_end(key)
            while len(self._indexes) > KEPT:
                self._indexes.popitem(last=False)
        return lambda: IndexMatcher(shared)


class _Shared:
    """What all texts of one constraint have in common: the index, and what was found out about its states."""

    def __init__(self, index: Any, context: GrammarContext) -> None:
        self.index = index
        self.eos = context.eos_token_ids
        self.whole: dict[int, bool] = {}  # nothing may follow
        self._ends: dict[int, bool] = {}

    def may_end(self, state: int) -> bool:
        """Whether eos leads to the end; an expression that matches END itself has eos elsewhere too."""
        found = self._ends.get(state)
        if found is None:
            after = self.index.get_next_state(state, self.eos[0])
            found = self._ends[state] = after is not None and self.index.is_final_state(after)
        return found


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
    if kind == "json_schema":
        return schema_regex(checked(text))
    if kind == "json_object":
        raise GrammarUnsupported("any JSON object is no regular language")
    if kind == "regex":
        return regex.read(text).body
    if kind == "choice":
        return "|".join(map(regex.literal, json.loads(text)))
    raise GrammarUnsupported(f"{kind} is not a kind of it")
