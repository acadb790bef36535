"""Tokenizers of the families of vocabularies in use."""

from __future__ import annotations

from tests.plugins.tokenizers.conftest import folder, texts, tokenizer_folders

__all__ = ["folder", "texts", "tokenizer_folders"]
