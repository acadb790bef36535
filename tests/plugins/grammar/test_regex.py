"""Expressions of clients: what is written matches them in Python's reading, and what matches can be written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.errors import GrammarUnsupported
from maxserve.core.interfaces.grammar import GrammarCompiler, Matcher
from maxserve.plugins.grammar import regex
from maxserve.testing.grammar import written

LITERALS = [
    "a",
    "Z",
    "7",
    "é",
    "日",
    " ",
    "-",
    r"\.",
    r"\[",
    r"\n",
    r"\t",
    r"\x41",
    r"\u00e9",
    "_",
    '"',
    r"\\",
    "&",
    "~",
]
SETS = [
    "[abc]",
    "[^abc]",
    "[a-f0-9]",
    r"[\d_]",
    r"[^\w]",
    r"[\s-]",
    "[]x]",
    "[^]x]",
    r"[\]\\^-]",
    "[&&a]",
    r"[\D]",
    "[é-ü]",
]
CLASSES = [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", "."]
COUNTS = ["", "", "*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "{,3}"]

atoms = st.sampled_from(LITERALS + SETS + CLASSES)
counted = st.builds(lambda atom, count: atom + count, atoms, st.sampled_from(COUNTS))
expressions = st.recursive(
    counted,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.builds(lambda one, other, count: f"(?:{one}|{other}){count}", inner, inner, st.sampled_from(COUNTS)),
        st.builds(lambda one: f"({one})", inner),
    ),
    max_leaves=5,
)
SLOWLY = settings(deadline=None, max_examples=100, suppress_health_check=list(HealthCheck))


@given(expression=expressions, seed=st.integers(0, 3))
@SLOWLY
def test_what_is_written_matches(
    guidance: GrammarCompiler, random_text: Callable[[Matcher, int], str | None], expression: str, seed: int
) -> None:
    assume(not re.search(r"\[\^[^]]*\\[DWS]", expression))
    matcher = guidance.compile("regex", expression)()
    try:
        text = random_text(matcher, seed)
    except (UnicodeDecodeError, IndexError):  # cut within a character, or nothing but the empty text
        return
    if text is not None:
        assert re.fullmatch(expression, text), (expression, text)
        assert re.fullmatch(expression, text, re.ASCII), (expression, text)


@given(data=st.data(), expression=expressions)
@SLOWLY
def test_what_matches_can_be_written(guidance: GrammarCompiler, data: st.DataObject, expression: str) -> None:
    """But for characters that a class has in one of two readings, and repetitions of repetitions: `re`, which makes the
    text, tries all ways to divide it among those.
    """
    assume(not re.search(r"[*+}].*\)[*+{]", expression))
    assume(not any(name in expression for name in (r"\D", r"\W", r"\S", r"^\w", ".")))
    text = data.draw(st.from_regex(re.compile(expression, re.ASCII), fullmatch=True))
    assume(text.isascii() or not re.search(r"\\[dws]|\^", expression))
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert written(guidance.compile("regex", expression)(), text), (expression, text)


@given(text=st.text(min_size=1, max_size=20))
@SLOWLY
def test_a_literal_is_itself(guidance: GrammarCompiler, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        with pytest.raises(GrammarUnsupported, match="surrogate"):
            regex.literal(text)
        return
    assert written(guidance.compile("choice", json.dumps([text]))(), text)


@given(text=st.text(alphabet=r"ab()[]{}|*+?^$\.,-:0123456789dDwWsSnPxu<>=!#", max_size=25))
@settings(deadline=None, max_examples=400)
def test_any_text_is_an_expression_or_refused(text: str) -> None:
    """Nothing but GrammarUnsupported, and what `re` does not take no back end takes."""
    try:
        found = regex.read(text)
    except GrammarUnsupported:
        return
    re.compile(text)
    assert found.pattern


@pytest.mark.parametrize(
    ("text", "start", "end"), [("a", False, False), ("^a", True, False), ("a$", False, True), ("^a|b$", True, True)]
)
def test_anchors(text: str, start: bool, end: bool) -> None:
    found = regex.read(text)
    assert (found.start, found.end) == (start, end)


@pytest.mark.parametrize(
    "text",
    ["(", "(a{200}){200}", "(?=a)", r"(a)\1", "a^b", r"\bx", "(?i)a", "a++", r"\Z", "x" * 30_000, "(" * 60 + ")" * 60],
)
def test_refusals(text: str) -> None:
    with pytest.raises(GrammarUnsupported) as raised:
        regex.read(text)
    assert raised.value.invalid
