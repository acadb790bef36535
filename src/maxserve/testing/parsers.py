"""Checks of parsers of answers.

class TestHermes(ToolParserChecks):
    parser = "hermes"
    answers = {'<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>': ("", [("f", '{"a": 1}')])}
    plain = ["Hello.", "<tool_call> is a tag"]
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeAlias

from maxserve.core.interfaces.parsers import (
    Delta,
    ReadsAnswer,
    ReasoningContext,
    ReasoningParser,
    Tool,
    ToolContext,
    ToolParser,
)
from maxserve.testing.resolve import load, resolve

Calls: TypeAlias = Sequence[tuple[str, str]]  # name and arguments of each
Gathered: TypeAlias = tuple[str, str, list[tuple[str, str]]]  # content, reasoning, calls
_CUTS = 20  # random ways to cut each text, beside the whole and its single characters


class _ReaderChecks:
    def reader(self) -> ReadsAnswer:
        raise NotImplementedError

    def texts(self) -> list[str]:
        raise NotImplementedError

    def read(self, pieces: Iterable[str]) -> Gathered:
        """What a fresh reader makes of the pieces of one text."""
        reader = self.reader()
        return gathered([*[reader.feed(piece) for piece in pieces], reader.finish()])

    def test_cuts_make_no_difference(self) -> None:
        for text in self.texts():
            for part in (text, *_beginnings(text)):
                whole = self.read([part])
                for pieces in _cuts(part):
                    assert self.read(pieces) == whole, f"cut into {pieces!r}"

    def test_an_empty_answer_is_empty(self) -> None:
        assert self.read([]) == ("", "", [])
        assert self.read([""]) == ("", "", [])

    def test_answers_do_not_share_state(self) -> None:
        one, other = self.reader(), self.reader()
        for text in self.texts():
            other.feed(text[: len(text) // 2])
            assert gathered([one.feed(text), one.finish()]) == self.read([text])
            one = self.reader()


class ToolParserChecks(_ReaderChecks):
    """Subclass it and name a registered `parser`, or give the `component` itself.

    `answers` gives, by the whole text of an answer, its content and its calls; `plain` are texts without calls, which
    must come out as they are. `tools` are those that the request declared.
    """

    parser: ClassVar[str] = ""
    component: ClassVar[ToolParser | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    tools: ClassVar[Sequence[Tool]] = ()
    answers: ClassVar[Mapping[str, tuple[str, Calls]]] = {}
    plain: ClassVar[Sequence[str]] = ("Hello, you.", "", " \n ", '{"a": 1} [1, 2] <b> {{', "ünï 日本 🚀\n\n")

    def reader(self) -> ReadsAnswer:
        build = _build(ToolParser, self.parser, self.component)
        reader: ReadsAnswer = build(ToolContext(tools=tuple(self.tools), sections=self.sections))
        return reader

    def texts(self) -> list[str]:
        return [*self.answers, *self.plain]

    def test_there_are_answers(self) -> None:
        assert any(calls for _, calls in self.answers.values()), "give `answers` of which one has calls"

    def test_answers_are_read(self) -> None:
        for text, (content, calls) in self.answers.items():
            assert self.read([text]) == (content, "", list(calls)), text

    def test_plain_text_stays_as_it_is(self) -> None:
        for text in self.plain:
            assert self.read([text]) == (text, "", []), text


class ReasoningParserChecks(_ReaderChecks):
    """As ToolParserChecks; `answers` gives (content, reasoning) by the end of the prompt and the text."""

    parser: ClassVar[str] = ""
    component: ClassVar[ReasoningParser | None] = None
    sections: ClassVar[dict[type[Any], Any]] = {}  # the plugin's settings, by schema
    answers: ClassVar[Mapping[tuple[str, str], tuple[str, str]]] = {}

    def reader(self, prompt: str = "") -> ReadsAnswer:
        build = _build(ReasoningParser, self.parser, self.component)
        reader: ReadsAnswer = build(ReasoningContext(prompt=prompt, sections=self.sections))
        return reader

    def texts(self) -> list[str]:
        return [text for _, text in self.answers]

    def test_there_are_answers(self) -> None:
        assert any(reasoning for _, reasoning in self.answers.values()), "give `answers` of which one has reasoning"

    def test_answers_are_read(self) -> None:
        for (prompt, text), (content, reasoning) in self.answers.items():
            for pieces in ([text], *_cuts(text)):
                reader = self.reader(prompt)
                read = gathered([*[reader.feed(piece) for piece in pieces], reader.finish()])
                assert read == (content, reasoning, []), f"{prompt!r}, cut into {pieces!r}"


@cache
def _build(kind: type[Any], name: str, given: Any) -> Any:
    """What makes readers: looking plugins up takes longer than reading an answer."""
    return load(resolve(kind, name, given).build)


def gathered(deltas: Iterable[Delta]) -> Gathered:
    """What deltas make up; AssertionError when they break the rules of CallDelta."""
    content, reasoning, calls = "", "", list[list[str]]()
    for delta in deltas:
        content += delta.content
        reasoning += delta.reasoning
        for call in delta.calls:
            if call.index == len(calls):
                assert call.name, "the first delta of a call has its name"
                calls.append([call.name, ""])
            assert call.index == len(calls) - 1, "calls come one after another, numbered from 0"
            assert not call.name or not calls[-1][1], "name and id come once, with the first delta"
            calls[-1][1] += call.arguments
    return content, reasoning, [(name, arguments) for name, arguments in calls]


def _beginnings(text: str) -> list[str]:
    """Answers may be cut off anywhere."""
    return [text[:end] for end in range(1, len(text), 1 + len(text) // 40)]


def _cuts(text: str) -> list[list[str]]:
    rng = random.Random(text)
    ways = [list(text)]
    for _ in range(min(_CUTS, len(text))):
        places = sorted(rng.randrange(len(text) + 1) for _ in range(rng.randrange(1, 6)))
        ways.append([text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)])
    return ways
