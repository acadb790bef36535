"""What leaves the server of an answer, whatever model and parser do."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.parsers import CallDelta, Delta, ReadsAnswer, ReasoningContext, Tool, ToolContext
from maxserve.core.registry.entries import load_ref
from maxserve.plugins.api.common.answer import TextDelta
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.api.common.script import Script
from maxserve.plugins.parsers import maxserve_reasoning_parsers, maxserve_tool_parsers
from maxserve.testing.parsers import gathered

WEATHER = Tool(name="weather", parameters={"type": "object", "properties": {"city": {"type": "string"}}})
COUNT = Tool(
    name="count", parameters={"type": "object", "properties": {"to": {"type": "integer"}, "by": {"type": "string"}}}
)
TOOLS = (WEATHER, COUNT)


def reader(parser: str, *, reasoning: str | None = None, prompt: str = "", **more: Any) -> OutputParser:
    (tools,) = (load_ref(each.build) for each in maxserve_tool_parsers() if each.name == parser)
    thoughts = [load_ref(each.build) for each in maxserve_reasoning_parsers() if each.name == reasoning]
    context = ReasoningContext(prompt=prompt, tools=TOOLS)
    return OutputParser(
        thoughts[0](context) if thoughts else None, tools(ToolContext(tools=TOOLS)), declared=TOOLS, **more
    )


def read(reader: OutputParser, pieces: Iterable[str], *, cut: bool = False) -> Any:
    """Content, reasoning and calls of an answer that comes in `pieces`; all of it can be encoded."""
    pieces = [*pieces, ""]
    last = len(pieces) - 1
    deltas = [reader.read(piece, last=i == last, cut=cut and i == last) for i, piece in enumerate(pieces)]
    msgspec.json.encode(deltas)
    return gathered(deltas)


ANSWERS = {
    "hermes": [
        '<tool_call>\n{"name": "weather", "arguments": "{\\"city\\": \\"Bonn \\\\u00fc\\"}"}\n</tool_call>',
        "Hm.<tool_call>{'name': 'weather', 'arguments': {'city': \"Bonn ü\"}}</tool_call>",
        '<tool_call>{"name": "weather", "arguments": {"city": "Bonn ü"}</tool_call>',
        '<tool_call>{"name": "weather", "arguments": {"city": "Bonn ü',
        '{"name": "weather", "arguments": {"city": "Bonn ü"}}',
    ],
    "llama3_json": [
        'Sure.\n{"name": "weather", "parameters": {"city": "Bonn ü"}}',
        '<|python_tag|>{"name": "weather", "parameters": "{\\"city\\": \\"Bonn ü\\"}"}',
    ],
    "mistral": [
        '[TOOL_CALLS][{"name": "weather", "arguments": "{\\"city\\": \\"Bonn ü\\"}"}]',
        "[TOOL_CALLS]weather[ARGS]{'city': 'Bonn ü'",
    ],
    "json": ['```json\n{"name": "weather", "arguments": {"city": "Bonn ü",}}\n```'],
    "pythonic": ["[weather(city='Bonn ü')]"],
    "qwen3_coder": [
        "<tool_call>\n<function=weather>\n<parameter=city>\nBonn ü\n</function>\n</tool_call>",
        "<tool_call>\n<function=weather>\n<parameter=city>\nBonn ü\n</param",
        '<tool_call>{"name": "weather", "arguments": {"city": "Bonn ü"}}</tool_call>',
    ],
}


@pytest.mark.parametrize(("parser", "text"), [(parser, text) for parser, texts in ANSWERS.items() for text in texts])
def test_arguments_decode_to_an_object_however_they_were_written(parser: str, text: str) -> None:
    for pieces in ([text], list(text), [text[i : i + 3] for i in range(0, len(text), 3)]):
        content, _, calls = read(reader(parser), pieces)
        assert [(name, json.loads(arguments)) for name, arguments in calls] == [("weather", {"city": "Bonn ü"})]
        assert content in ("", "Hm.", "Sure.")


MARKS = (
    "<tool_call>", "</tool_call>", "<function=count>", "</function>", "<parameter=to>", "</parameter>", "[TOOL_CALLS]",
    "[ARGS]", "<|python_tag|>", '{"name": "count", "arguments": ', '{"to": "5"}', '"{\\"to\\": 5}"', "{'to': None}",
    "[count(to=1)]", "count", "```json\n", "```", "<think>", "</think>", "}", "]", '"', "'", "\n", "\\ud800", "{", "[",
)  # fmt: skip


@pytest.mark.parametrize("parser", sorted(ANSWERS))
@given(parts=st.lists(st.sampled_from(MARKS), max_size=12), cuts=st.lists(st.integers(0, 200)), cut=st.booleans())
@settings(max_examples=150, deadline=None)
def test_streamed_and_whole_are_the_same(parser: str, parts: list[str], cuts: list[int], cut: bool) -> None:
    text = "".join(parts)
    places = sorted({0, len(text), *(place for place in cuts if place < len(text))})
    pieces = [text[a:b] for a, b in pairwise(places)]
    whole = read(reader(parser, reasoning="think"), [text], cut=cut)
    assert read(reader(parser, reasoning="think"), pieces, cut=cut) == whole
    for _, arguments in whole[2][: -1 if cut else None]:
        assert isinstance(json.loads(arguments), dict)


def test_an_answer_that_was_cut_off_keeps_its_arguments_as_far_as_they_came() -> None:
    text = '<tool_call>{"name": "count", "arguments": {"to": 5, "by": "on'
    assert read(reader("hermes"), [text], cut=True)[2] == [("count", '{"to": 5, "by": "on')]
    assert read(reader("hermes"), [text])[2] == [("count", '{"to": 5, "by": "on"}')]


def test_arguments_have_the_types_of_the_tool() -> None:
    text = '<tool_call>{"name": "count", "arguments": {"to": "5", "by": 2}}</tool_call>'
    assert read(reader("hermes"), list(text))[2] == [("count", '{"to": 5, "by": "2"}')]
    assert read(reader("pythonic"), ["[count(to='5', by=2)]"])[2] == [("count", '{"to": 5, "by": "2"}')]


def test_a_call_in_reasoning_that_does_not_end_is_one() -> None:
    """Qwen 3.5 goes over to calls so now and then."""
    text = 'Hm.\n\n<tool_call>\n{"name": "count", "arguments": {"to": 5}}\n</tool_call>'
    for pieces in ([text], list(text)):
        thinking = reader("hermes", reasoning="think", prompt="<think>\n")
        assert read(thinking, pieces) == ("", "Hm.", [("count", '{"to": 5}')])
        assert TextDelta(called=thinking.called, finish="stop").finish_reason == "tool_calls"


def test_calls_beyond_the_first_are_left_out() -> None:
    text = '<tool_call>{"name": "count", "arguments": {"to": 1</tool_call><tool_call>{"name": "weather"}</tool_call>'
    for pieces in ([text], list(text)):
        assert read(reader("hermes", most_calls=1), pieces)[2] == [("count", '{"to": 1}')]


def test_lone_surrogates_do_not_leave() -> None:
    text = '<tool_call>{"id": "\\ud800", "name": "weather", "arguments": {"city": "\\udfff"}}</tool_call>'
    whole = reader("hermes").read(text, last=True)
    msgspec.json.encode(whole)
    assert [(call.id, call.arguments) for call in whole.calls] == [("�", '{"city": "\\ufffd"}')]


class Stranger:
    """A parser that tells what it likes."""

    def __init__(self, *deltas: Delta) -> None:
        self.deltas = list(deltas)

    def feed(self, text: str) -> Delta:
        return self.deltas.pop(0) if self.deltas else Delta(content=text)

    def finish(self) -> Delta:
        return Delta()


def told(*deltas: Delta) -> Any:
    stranger: ReadsAnswer = Stranger(*deltas)
    return read(OutputParser(None, stranger), ["x"] * len(deltas))


def test_what_a_strangers_parser_tells_becomes_an_object() -> None:
    def call(index: int, name: str = "", arguments: str = "") -> Delta:
        return Delta(content="\ud800", calls=(CallDelta(index=index, name=name, arguments=arguments),))

    assert told(call(0, "f"), call(0, "", "{'a'"), call(0, "", ": 1"), call(1, "g\udfff", "None")) == (
        "����",
        "",
        [("f", '{"a": 1}'), ("g�", "{}")],
    )


class Endless(Script):
    """Reads on when the text is over."""

    def read(self) -> Generator[None, str, None]:
        while True:
            self.content((yield))


class Treading(Script):
    """Puts back what it reads."""

    def read(self) -> Generator[None, str, None]:
        while True:
            yield from self.peek()


def test_a_parser_that_reads_for_ever_is_stopped_and_named() -> None:
    endless = Endless()
    assert endless.feed("Hello").content == "Hello"
    with pytest.raises(PluginError, match=r"Endless\.read goes on reading for ever"):
        endless.finish()
    with pytest.raises(PluginError, match="Treading"):
        Treading().feed("Hello")
