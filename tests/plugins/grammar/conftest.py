"""Compilers of both back ends, and random texts of what they compile."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from maxserve.core.interfaces.grammar import GrammarCompiler, GrammarContext, Matcher
from maxserve.plugins.grammar import llguidance, outlines
from maxserve.testing.grammar import EOS, VOCABULARY, allowed

LONGEST = 4_000  # bytes of a text
CLOSERS = {2 + ord(char) for char in '"}],'}


def context() -> GrammarContext:
    return GrammarContext(
        sections={}, vocabulary=VOCABULARY, eos_token_ids=EOS, vocab_size=len(VOCABULARY), tokenizer_path=""
    )


@pytest.fixture(scope="session")
def guidance() -> GrammarCompiler:
    return llguidance.Compiler(context())


@pytest.fixture(scope="session")
def automata() -> GrammarCompiler:
    return outlines.Compiler(context())


@pytest.fixture(scope="session")
def random_text() -> Callable[[Matcher, int], str | None]:
    return text_of


def text_of(matcher: Matcher, seed: int) -> str | None:
    """A text that the matcher lets end, which what closes something makes short; None when it does not end."""
    rng = random.Random(seed)
    made = bytearray()
    while len(made) < LONGEST:
        choices = allowed(matcher)
        if matcher.finished() or (choices & set(EOS) and rng.random() < 0.5):
            return made.decode()
        single = sorted(id for id in choices - set(EOS) if id < 2 + 256)
        closing = [id for id in single if id in CLOSERS]
        token = rng.choice(closing if closing and rng.random() < 0.4 else single)
        matcher.accept(token)
        made.append(token - 2)
    return None


def compiled(compiler: GrammarCompiler, schema: Any) -> Callable[[], Matcher]:
    text = json.dumps(schema)
    compiler.check("json_schema", text)
    return compiler.compile("json_schema", text)
