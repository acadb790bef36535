"""Checks of grammar back ends.

class TestAcme(GrammarBackendChecks):
    backend = "acme"
    cases = [("regex", "[ab]{2,3}", ["ab", "abb"], ["a", "abc"])]
    refused = [("regex", "(a)\\\\1")]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.grammar import GrammarBackend, GrammarContext
from maxserve.testing.resolve import load, resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher

EOS = (0, 1)
HOLES = 40  # ids of the logits that no token has
WORDS = (b'{"', b'":', b"ab", b"abb", b"true", b"12", "é".encode(), "日".encode()[:2])
VOCABULARY = (b"", b"", *(bytes([byte]) for byte in range(256)), *WORDS, *[b""] * HOLES)
LONGEST = 300  # tokens of a walk

Case = tuple[str, str, Sequence[str], Sequence[str]]


class GrammarBackendChecks:
    """Subclass it and name a registered `backend`, or give the `component` itself.

    `cases` are (kind, text, texts that are valid, texts that are not); `refused` are (kind, text) it must not take.
    """

    backend: ClassVar[str] = ""
    component: ClassVar[GrammarBackend | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    cases: ClassVar[Sequence[Case]] = ()
    refused: ClassVar[Sequence[tuple[str, str]]] = ()

    def declared(self) -> GrammarBackend:
        """The component under test."""
        return resolve(GrammarBackend, self.backend, self.component)

    def compiler(self) -> GrammarCompiler:
        """A compiler for all bytes, a few longer tokens, two eos ids, and ids that are no text."""
        build: Callable[[GrammarContext], GrammarCompiler] = load(self.declared().build)
        context = GrammarContext(
            sections=self.sections,
            vocabulary=VOCABULARY,
            eos_token_ids=EOS,
            vocab_size=len(VOCABULARY),
            tokenizer_path="",
        )
        return build(context)

    def matchers(self) -> Iterator[tuple[Matcher, Case]]:
        compiler = self.compiler()
        assert self.cases, f"{type(self).__name__} has no cases"
        for case in self.cases:
            compiler.check(case[0], case[1])
            yield compiler.compile(case[0], case[1])(), case

    def test_kinds_are_declared(self) -> None:
        kinds = {case[0] for case in self.cases}
        assert kinds <= self.declared().accepts

    def test_valid_texts_can_be_written_and_no_others(self) -> None:
        compiler = self.compiler()
        for kind, text, valid, invalid in self.cases:
            for one in (*valid, *invalid):
                assert written(compiler.compile(kind, text)(), one) == (one in valid), f"{one!r} under {text!r}"

    def test_a_random_text_is_whole_where_it_may_end(self) -> None:
        """Every token that `fill` allows is accepted, and where `finished` says so nothing but eos is allowed."""
        for matcher, (_, text, _, _) in self.matchers():
            walk(matcher, np.random.default_rng(0))
            assert matcher.finished() == (allowed(matcher) <= set(EOS)), text

    def test_taking_back_leads_to_the_same_choices(self) -> None:
        if not self.declared().rollback:
            return
        for matcher, (_, text, valid, _) in self.matchers():
            before, start = allowed(matcher), valid[0].encode()[:8]
            for byte in start:
                matcher.accept(2 + byte)
            matcher.rollback(len(start))
            assert allowed(matcher) == before, text

    def test_ids_that_are_no_text_are_never_allowed(self) -> None:
        silent = {id for id, token in enumerate(VOCABULARY) if not token} - set(EOS)
        for matcher, _ in self.matchers():
            assert not allowed(matcher) & silent
            assert allowed(matcher) & set(EOS) in (set(), set(EOS))

    def test_texts_do_not_disturb_each_other(self) -> None:
        compiler = self.compiler()
        kind, text, valid, _ = self.cases[0]
        make = compiler.compile(kind, text)
        one, other = make(), make()
        before = allowed(other)
        one.accept(2 + valid[0].encode()[0])
        assert allowed(other) == before
        assert compiler.cached(kind, text)

    def test_several_threads_compile(self) -> None:
        compiler = self.compiler()
        with ThreadPoolExecutor(8) as threads:
            kinds = [(kind, text) for kind, text, _, _ in self.cases] * 4
            for make in threads.map(lambda case: compiler.compile(*case), kinds):
                assert allowed(make())

    def test_what_it_cannot_express_is_refused(self) -> None:
        compiler = self.compiler()
        for kind, text in self.refused:
            with pytest.raises(GrammarUnsupported):
                check_and_compile(compiler, kind, text)


def check_and_compile(compiler: GrammarCompiler, kind: str, text: str) -> None:
    compiler.check(kind, text)
    compiler.compile(kind, text)


def allowed(matcher: Matcher) -> set[int]:
    """The ids that `fill` allows; what was in the row before must not matter."""
    row: NDArray[np.int32] = np.full(-(-len(VOCABULARY) // 32), -1, dtype=np.int32)
    matcher.fill(row)
    bits = np.unpackbits(row.view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits[: len(VOCABULARY)]).tolist())


def written(matcher: Matcher, text: str) -> bool:
    """Whether `text` can be written byte by byte, and end there."""
    for byte in text.encode():
        if 2 + byte not in allowed(matcher):
            return False
        matcher.accept(2 + byte)
    return set(EOS) <= allowed(matcher)


def walk(matcher: Matcher, rng: np.random.Generator) -> int:
    """Writes a random text until it is whole, or long enough; how many tokens it has."""
    for step in range(LONGEST):
        choices = sorted(allowed(matcher) - set(EOS))
        if not choices or matcher.finished():
            return step
        matcher.accept(int(rng.choice(choices)))
    return LONGEST
