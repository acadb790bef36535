"""Detokenizer, and what grammars know of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.grammar_vocabulary import grammar_context
    from maxserve.plugins.api.common.detokenizer import Detokenizer
    from maxserve.plugins.grammar.thoughts import ThoughtMatcher

__all__ = [
    "ThoughtMatcher",
    "Detokenizer",
    "grammar_context",
]

__getattr__ = exports(
    __name__,
    {
        "ThoughtMatcher": "maxserve.plugins.grammar.thoughts",
        "Detokenizer": "maxserve.plugins.api.common.detokenizer",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
    },
)
