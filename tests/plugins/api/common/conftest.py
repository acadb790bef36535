"""Tokenizers of the families of vocabularies in use."""

from __future__ import annotations

from tests.core.text.conftest import tokenizer_folders

__all__ = ["tokenizer_folders"]
