"""Grammar back ends that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.grammar import GrammarBackend

REGULAR = frozenset({"json_schema", "json_object", "regex", "choice"})


@hookimpl
def maxserve_grammar_backends() -> Iterable[GrammarBackend]:
    """Parsing while the text is written, and automata made beforehand."""
    yield GrammarBackend(
        name="llguidance",
        build="maxserve.plugins.grammar.llguidance:Compiler",
        summary="starts at once; also recursive schemas and grammars; masks in tens of microseconds",
        accepts=REGULAR | {"grammar"},
        priority=20,
    )
    yield GrammarBackend(
        name="outlines",
        build="maxserve.plugins.grammar.outlines:Compiler",
        summary="indexes of the vocabulary, made in seconds; masks in a microsecond; regular languages only",
        accepts=REGULAR,
        priority=10,
    )
