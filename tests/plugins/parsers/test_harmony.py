"""The messages of GPT-OSS: which are reasoning, calls and content."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import pytest

from maxserve.core.interfaces.parsers import ReasoningContext, Tool, ToolContext
from maxserve.plugins.api.common.output_parsing import OutputParser
from maxserve.plugins.parsers.harmony import HarmonyCalls, HarmonyReasoning
from maxserve.testing.parsers import Gathered, ReasoningParserChecks, ToolParserChecks, gathered

TOOLS = (Tool(name="weather"), Tool(name="now"))
PROMPT = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
THOUGHT = "<|channel|>analysis<|message|>Two and two.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Four."
CALL = '<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}'
HARD = r'{"text": "<a> \"b\" {c} é 🚀 \\", "n": [1, {"x": null}]}'


class TestReasoning(ReasoningParserChecks):
    parser = "gpt_oss"
    answers: ClassVar = {
        (PROMPT, THOUGHT + FINAL): ("Four.", "Two and two."),
        (PROMPT, THOUGHT + FINAL + "<|return|>"): ("Four.", "Two and two."),
        (PROMPT, "<|channel|>final<|message|> As it is.\n"): (" As it is.\n", ""),
        (PROMPT, '<|channel|>final <|constrain|>json<|message|>{"a": 1}<|return|>'): ('{"a": 1}', ""),
        (PROMPT, THOUGHT + "<|start|>assistant" + THOUGHT + FINAL): ("Four.", "Two and two.\nTwo and two."),
        (PROMPT, "<|channel|>commentary<|message|>Wait.<|end|>" + FINAL): ("Wait.\nFour.", ""),
        (PROMPT, THOUGHT + CALL + "<|call|>"): (CALL + "<|call|>", "Two and two."),
        (PROMPT, "<|channel|>analysis to=python code<|message|>2+2<|call|>"): ("", "2+2"),
        # ends and roles that models forget
        (PROMPT, "<|channel|>analysis<|message|>Hm.<|start|>assistant<|channel|>final<|message|>A."): ("A.", "Hm."),
        (PROMPT, "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>A."): ("A.", "Hm."),
        (PROMPT, "<|channel|>analysis<|message|>Hm.<|end|>assistant<|channel|>final<|message|>A."): ("A.", "Hm."),
        (PROMPT, "<|message|>No channel."): ("No channel.", ""),
        (PROMPT, "<|channel|>final<|channel|>analysis<|message|>A."): ("A.", ""),
        (PROMPT, "<|channel|>analysis<|channel|>final<|message|>Hm."): ("", "Hm."),
        # answers that are cut off
        (PROMPT, "<|channel|>analysis<|message|>and on and "): ("", "and on and "),
        (PROMPT, "<|channel|>analysis"): ("", ""),
        (PROMPT, THOUGHT + "<|start|>assi"): ("", "Two and two."),
        # text that has no channels
        (PROMPT, "Just text, to be <b>bold</b>."): ("Just text, to be <b>bold</b>.", ""),
        (PROMPT, "assistants a"): ("assistants a", ""),
        (PROMPT, "assistant"): ("assistant", ""),
        # where the prompt has begun the message
        (PROMPT + "<|channel|>analysis<|message|>We", " think.<|end|>" + FINAL): ("Four.", " think."),
        (PROMPT + "<|channel|>final<|message|>", "Four."): ("Four.", ""),
        (PROMPT + "<|channel|>analysis", "<|message|>Hm."): ("", "Hm."),
    }


class TestCalls(ToolParserChecks):
    parser = "gpt_oss"
    tools = TOOLS
    answers: ClassVar = {
        CALL + "<|call|>": ("", [("weather", '{"city": "Oslo"}')]),
        CALL: ("", [("weather", '{"city": "Oslo"}')]),
        "Look.<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>" + HARD: (
            "Look.",
            [("weather", HARD)],
        ),
        " to=functions.weather<|channel|>commentary json<|message|>{}<|call|>": ("", [("weather", "{}")]),
        "<|channel|>analysis to=functions.now code<|message|>\n{}<|call|>": ("", [("now", "{}")]),
        "<|channel|>commentary<|channel|>commentary to=functions.now json<|message|>{}": ("", [("now", "{}")]),
        "<|channel|>commentary to=now json<|message|>{}<|call|>": ("", [("now", "{}")]),
        "<|channel|>commentary to=functions.other.one<|message|> {}": ("", [("other.one", "{}")]),
        "<|channel|>commentary to=functions.now <|constrain|>json<|message|><|call|>": ("", [("now", "{}")]),
        "<|channel|>commentary to=functions.now <|constrain|>json<|call|>": ("", [("now", "{}")]),
        "<|channel|>commentary to=functions.now<|message|>": ("", [("now", "")]),
        r'<|channel|>commentary to=functions.f<|message|>"{\"a\": 1}"<|call|>': ("", [("f", r'"{\"a\": 1}"')]),
        CALL + "<|call|>" + CALL.replace("Oslo", "Rom") + "<|call|>Done.": (
            "Done.",
            [("weather", '{"city": "Oslo"}'), ("weather", '{"city": "Rom"}')],
        ),
    }
    plain: ClassVar = [
        *ToolParserChecks.plain,
        "<|channel|>final<|message|>Four.",
        "<|channel|>commentary to=browser.open<|message|>{}<|call|>",
        "<|channel|>commentary to=functions.now<|message|>now, please",
        "<|start|>functions.now to=assistant<|channel|>commentary<|message|>{}<|end|>",
    ]


def read(pieces: Sequence[str]) -> Gathered:
    """What both parsers make of an answer together."""
    reasoning = HarmonyReasoning(ReasoningContext(prompt=PROMPT))
    reader = OutputParser(reasoning, HarmonyCalls(ToolContext(tools=TOOLS)))
    return gathered([*[reader.read(piece, last=False) for piece in pieces], reader.read("", last=True)])


@pytest.mark.parametrize("end", ["", "<|call|>"])
def test_an_answer_with_everything_in_it_however_it_is_cut(end: str) -> None:
    preamble = "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
    text = THOUGHT + preamble + CALL + "<|call|>" + CALL + end
    calls = [("weather", '{"city": "Oslo"}')] * 2
    assert read([text]) == ("I look.", "Two and two.", calls)
    assert read(list(text)) == read([text])
    for first, second in itertools.combinations(range(0, len(text), 19), 2):
        assert read([text[:first], text[first:second], text[second:]]) == read([text])


def test_no_marker_is_told_wherever_an_answer_is_cut_off() -> None:
    text = THOUGHT + CALL + "<|call|>" + FINAL
    markers = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|constrain|>")
    for end in range(len(text) + 1):
        content, reasoning, _ = read([text[:end]])
        assert not any(marker in content + reasoning for marker in markers), text[:end]


def test_a_call_that_ends_before_its_arguments_has_none_unless_it_was_cut_off() -> None:
    text = "<|channel|>commentary to=functions.now<|message|>"
    for cut, arguments in ((False, "{}"), (True, "")):
        reader = OutputParser(None, HarmonyCalls(ToolContext(tools=TOOLS)))
        calls = reader.read(text, last=True, cut=cut).calls
        assert "".join(call.arguments for call in calls) == arguments


def test_arguments_come_while_they_are_written() -> None:
    reasoning = HarmonyReasoning(ReasoningContext(prompt=PROMPT))
    reader = OutputParser(reasoning, HarmonyCalls(ToolContext()))
    (begun,) = reader.read('<|channel|>commentary to=functions.f<|message|>{"a": "lo', last=False).calls
    assert (begun.name, begun.arguments) == ("f", '{"a": "lo')
    (more,) = reader.read('ng"', last=False).calls
    assert more.arguments == 'ng"'
