"""Languages that are followed byte by byte."""

from __future__ import annotations

import pytest

from maxserve import ByteGrammar
from maxserve.core.interfaces.grammar import GrammarBackend, GrammarContext
from maxserve.testing.grammar import GrammarBackendChecks


class Repeated(ByteGrammar[tuple[str, int]]):
    """A word, any number of times but none."""

    asked = 0

    def start(self, kind: str, text: str) -> tuple[str, int]:
        return text, 0

    def follow(self, state: tuple[str, int], byte: int) -> tuple[str, int] | None:
        self.asked += 1
        word, at = state[0].encode(), state[1]
        return (state[0], at + 1) if byte == word[at % len(word)] else None

    def may_end(self, state: tuple[str, int]) -> bool:
        return state[1] > 0 and state[1] % len(state[0].encode()) == 0


class Once(Repeated):
    def follow(self, state: tuple[str, int], byte: int) -> tuple[str, int] | None:
        return None if self.may_end(state) else super().follow(state, byte)


class TestRepeated(GrammarBackendChecks):
    component = GrammarBackend(name="repeated", build=Repeated, accepts=frozenset({"word"}))
    cases = (
        ("word", "ab", ["ab", "abab", "ababab"], ["", "a", "aba", "abc"]),
        ("word", "é\xff", ["é\xff"], ["é", "e"]),
    )


class TestOnce(GrammarBackendChecks):
    component = GrammarBackend(name="once", build=Once, accepts=frozenset({"word"}))
    cases = (("word", "grün", ["grün"], ["", "gr", "grüngrün"]),)


VOCABULARY = (b"</s>", b"a", b"ab", b"aba", b"abc", b"b", b"ba", b"\xff\xff", b"\xff", b"", b"a")


def compiler() -> Repeated:
    return Repeated(
        GrammarContext(vocabulary=VOCABULARY, eos_token_ids=(0,), vocab_size=len(VOCABULARY), tokenizer_path="")
    )


def test_all_tokens_along_the_bytes_are_found() -> None:
    grammar = compiler()
    assert sorted(grammar.allowed(("ab", 0))) == [1, 2, 3, 10]
    assert sorted(grammar.allowed(("ab", 1))) == [5, 6]
    assert grammar.allowed(("x", 0)) == []


def test_states_are_asked_once_and_only_along_what_fits() -> None:
    grammar = compiler()
    grammar.allowed(("ab", 0))
    asked = grammar.asked
    assert asked < sum(map(len, VOCABULARY))
    grammar.allowed(("ab", 0))
    assert grammar.asked == asked


def test_a_token_that_cannot_follow_is_an_error() -> None:
    matcher = compiler().compile("word", "ab")()
    with pytest.raises(ValueError, match="cannot follow"):
        matcher.accept(5)
