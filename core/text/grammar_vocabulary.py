"""What grammar back ends know of a model's vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.errors import ModelError
from maxserve.core.interfaces.grammar import GrammarContext

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.interfaces.tokenizer import Tokenizer


def grammar_context(tokenizer: Tokenizer, info: ModelInfo, sections: Mapping[type[Any], Any]) -> GrammarContext:
    """ModelError when texts of this model cannot be followed: it has no eos, or its tokens are not known as bytes."""
    ends = tuple(id for id in info.eos_token_ids if 0 <= id < info.vocab_size)
    if not ends:
        raise ModelError(f"structured output needs a token that ends a text, and {info.name} names none (eos_token_id)")
    silent = tokenizer.special_ids.union(ends)
    vocabulary = [b"" if id in silent else tokenizer.token_bytes(id) or b"" for id in range(info.vocab_size)]
    if not any(vocabulary):
        raise ModelError(f"structured output needs the bytes of single tokens, which {info.name}'s tokenizer hides")
    return GrammarContext(
        sections=sections,
        vocabulary=vocabulary,
        eos_token_ids=ends,
        vocab_size=info.vocab_size,
        tokenizer_path=info.path,
    )
