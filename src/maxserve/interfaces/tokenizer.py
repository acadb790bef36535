"""Tokenizers: texts as token ids, and back."""

from __future__ import annotations

from maxserve.core.interfaces.tokenizer import *  # noqa: F403
