"""Detokenizer, and what grammars know of a vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.grammar_vocabulary import grammar_context
    from maxserve.plugins.api.common.detokenizer import Detokenizer

__all__ = [
    "Detokenizer",
    "grammar_context",
]

__getattr__ = exports(
    __name__,
    {
        "Detokenizer": "maxserve.plugins.api.common.detokenizer",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
    },
)
