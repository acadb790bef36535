"""Tokenizer and detokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.detokenizer import Detokenizer
    from maxserve.core.text.grammar_vocabulary import grammar_context
    from maxserve.core.text.tokenizer import Tokenizer, Truncation, TruncationSide, check_unicode

__all__ = [
    "Detokenizer",
    "TruncationSide",
    "Tokenizer",
    "Truncation",
    "check_unicode",
    "grammar_context",
]

__getattr__ = exports(
    __name__,
    {
        "Detokenizer": "maxserve.core.text.detokenizer",
        "check_unicode": "maxserve.core.text.tokenizer",
        "TruncationSide": "maxserve.core.text.tokenizer",
        "Tokenizer": "maxserve.core.text.tokenizer",
        "Truncation": "maxserve.core.text.tokenizer",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
    },
)
