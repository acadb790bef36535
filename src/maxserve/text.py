"""Detokenizer, and what grammars know of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.detokenizer import Detokenizer
    from maxserve.core.text.grammar_vocabulary import grammar_context

__all__ = [
    "Detokenizer",
    "grammar_context",
]

__getattr__ = exports(
    __name__,
    {
        "Detokenizer": "maxserve.core.text.detokenizer",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
    },
)
