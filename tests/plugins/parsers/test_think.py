"""Where reasoning begins and ends."""

from __future__ import annotations

from typing import ClassVar

from maxserve.core.testing.parsers import ReasoningParserChecks


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
    }


class TestFromStart(ReasoningParserChecks):
    parser = "think_from_start"
    answers: ClassVar = {
        ("", "Hm.</think>Two."): ("Two.", "Hm."),
        ("", "<think>\nHm.</think>\nTwo."): ("Two.", "Hm."),
        ("<think>\n\n</think>\n\n", "Two."): ("Two.", ""),
        ("", "for ever"): ("", "for ever"),
    }
