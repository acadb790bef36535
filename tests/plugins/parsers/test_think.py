"""Where reasoning begins and ends."""

from __future__ import annotations

from typing import ClassVar

import pytest

from maxserve.core.interfaces.parsers import ReasoningContext, Tool
from maxserve.plugins.parsers.think import Think
from maxserve.testing.parsers import ReasoningParserChecks, gathered


class TestThink(ReasoningParserChecks):
    parser = "think"
    answers: ClassVar = {
        ("", "<think>\nHm, 1 < 2.\n\nSo.\n</think>\n\nTwo.\n"): ("Two.\n", "Hm, 1 < 2.\n\nSo."),
        ("<|im_start|>assistant\n<think>\n", "Hm </thin </think> Two."): ("Two.", "Hm </thin"),
        ("<think>\n", "<think>\nHm.</think>Two."): ("Two.", "Hm."),
        ("<think>\n\n</think>\n\n", "Two."): ("Two.", ""),
        ("<think>", "and on and on <"): ("", "and on and on <"),
        ("", "<think></think>\n\nTwo."): ("Two.", ""),
        ("", "No tags at all."): ("No tags at all.", ""),
        ("", "\n <thin"): ("\n <thin", ""),
        ("", "Two. <think>no</think>"): ("Two. <think>no</think>", ""),
        ("", "Two.</think> Three."): ("Two.</think> Three.", ""),
        ("what does <think> mean?<|im_end|>", "A tag."): ("A tag.", ""),
        ("what does <think> mean?<|im_end|>\n<|im_start|>assistant\n", "A tag."): ("A tag.", ""),
        ("[INST] what does <think> mean? [/INST]", "A tag."): ("A tag.", ""),
        # Begun by the client.
        ("<|im_start|>assistant\n<think>\nOkay, so", " the sum is 4.</think>\n\nFour."): ("Four.", " the sum is 4."),
        ("<|im_start|>assistant\n<think>\nOkay.</think>\n\nSo: ", "Four."): ("Four.", ""),
        ("<|im_start|>assistant\nSo: ", "Four. <think>"): ("Four. <think>", ""),
        ("<think>a</think><|im_end|><|im_start|>assistant\n<think>b", "c"): ("", "c"),
    }


class TestFromStart(ReasoningParserChecks):
    parser = "think_from_start"
    answers: ClassVar = {
        ("", "Hm.</think>Two."): ("Two.", "Hm."),
        ("", "<think>\nHm.</think>\nTwo."): ("Two.", "Hm."),
        ("<think>\n\n</think>\n\n", "Two."): ("Two.", ""),
        ("", "for ever"): ("", "for ever"),
        ("<think>\nOkay", ", so.</think>Two."): ("Two.", ", so."),
        ("<think>\nOkay.</think>\n\nSo: ", "Two."): ("Two.", ""),
        ("<think>Hm.</think>One.<|im_end|>\n<|im_start|>assistant\n", "Hm.</think>Two."): ("Two.", "Hm."),
    }


class TestMistralThink(ReasoningParserChecks):
    parser = "mistral"
    answers: ClassVar = {
        ("[/INST]", "[THINK]Hm, [a].[/THINK]Two."): ("Two.", "Hm, [a]."),
        ("[/INST]", "Two. [THINK]no[/THINK]"): ("Two. [THINK]no[/THINK]", ""),
        ("[/INST]", "[THINK]and on"): ("", "and on"),
        ("[/INST]", "[THIN"): ("[THIN", ""),
    }


class TestSeedOssThink(ReasoningParserChecks):
    parser = "seed_oss"
    answers: ClassVar = {
        ("assistant\n", "<seed:think>Hm. <seed:cot_budget_reflect>9 left</seed:cot_budget_reflect></seed:think>Two."): (
            "Two.",
            "Hm. <seed:cot_budget_reflect>9 left</seed:cot_budget_reflect>",
        ),
        ("assistant\n<seed:think>\n</seed:think>\n", "Two."): ("Two.", ""),
    }


class TestKimiK2Think(ReasoningParserChecks):
    parser = "kimi_k2"
    answers: ClassVar = {
        ("", "<think>Hm.</think>Two."): ("Two.", "Hm."),
        ("", "<think>Look. <|tool_calls_section_begin|><|tool_call_begin|>"): (
            "<|tool_calls_section_begin|><|tool_call_begin|>",
            "Look.",
        ),
        ("", "<think>Look.<|tool_call_begin|>now"): ("<|tool_call_begin|>now", "Look."),
        ("", "<think>Look.</think><|tool_calls_section_begin|>"): ("<|tool_calls_section_begin|>", "Look."),
        ("", "<think>Look <|tool_calls_sec"): ("", "Look <|tool_calls_sec"),
    }


class TestDeepSeekThink(ReasoningParserChecks):
    parser = "deepseek"
    answers: ClassVar = {
        ("<｜Assistant｜><think>", "Hm.</think>Two."): ("Two.", "Hm."),
        ("<｜Assistant｜></think>", "Two."): ("Two.", ""),
        ("<think>\n", "Look.\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now"): (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now",
            "Look.",
        ),
        ("<think>", "Look.\n\n<｜DSML｜function_calls>\n"): ("<｜DSML｜function_calls>\n", "Look."),
    }


class TestGraniteReasoning(ReasoningParserChecks):
    parser = "granite"
    answers: ClassVar = {
        ("", "<think>Hm.</think><response>Two.</response>"): ("Two.", "Hm."),
        ("", "<think>\nHm.\n</think>\n<response>\nTwo < 3.\n</response>\n"): ("\nTwo < 3.\n", "Hm."),
        ("", "<think>Hm.</think>Two.</response>"): ("Two.</response>", "Hm."),
        ("", "<think>Hm.</think><response>It </response> ends."): ("It </response> ends.", "Hm."),
        ("", "<think>Hm.</think><resp"): ("<resp", "Hm."),
        ("", "<response>Two.</response>"): ("Two.", ""),
        ("", "Here is my thought process:\n\nHm.\n\nHere is my response:\n\nTwo."): ("Two.", "Hm."),
        ("", "Here's my thought process: Hm. Here's my response: Two."): ("Two.", "Hm."),
        ("", "Here is my plan. Here is my response: Two."): ("Here is my plan. Here is my response: Two.", ""),
        ("", "Two."): ("Two.", ""),
    }


DRAFTS = {
    # A call behind reasoning that does not end is one.
    "<think>Hm.\n<tool_call>\n{}\n</tool_call>": ("<tool_call>\n{}\n</tool_call>", "Hm."),
    "<think>\n<tool_call>\n{}": ("<tool_call>\n{}", ""),
    # One that was only tried out is not, nor is one that is spoken of.
    "<think>I may say\n<tool_call>\n{}\n</tool_call>\nor not.</think>\nNo.": (
        "No.",
        "I may say\n<tool_call>\n{}\n</tool_call>\nor not.",
    ),
    "<think>A <tool_call> is a tag": ("", "A <tool_call> is a tag"),
    "<think>Hm.\n<tool_ca": ("", "Hm.\n<tool_ca"),
    "<think>Hm.</think>\n<tool_call>": ("<tool_call>", "Hm."),
}


@pytest.mark.parametrize(("text", "read"), DRAFTS.items())
def test_calls_within_reasoning(text: str, read: tuple[str, str]) -> None:
    context = ReasoningContext(tools=(Tool(name="f"),))
    for size in range(1, len(text) + 1):
        reader = Think(context)
        deltas = [reader.feed(text[i : i + size]) for i in range(0, len(text), size)]
        assert gathered([*deltas, reader.finish()])[:2] == read, size
    reader = Think(ReasoningContext())
    assert gathered([reader.feed(text), reader.finish()])[0] == (read[0] if "</think>" in text else "")
