"""Reasoning between other tags than <think>, by family."""

from __future__ import annotations

from maxserve.plugins.parsers.think import Think


class MistralThink(Think):
    """Magistral, and Ministral where it reasons."""

    openings = ("[THINK]",)
    closings = ("[/THINK]",)


class SeedOssThink(Think):
    """What Seed-OSS tells of its budget while it thinks is part of the reasoning."""

    openings = ("<seed:think>",)
    closings = ("</seed:think>",)


class KimiK2Think(Think):
    """Kimi K2 Thinking goes over to its calls without a word."""

    ends = ("<|tool_calls_section_begin|>", "<|tool_call_section_begin|>", "<|tool_call_begin|>")


class DeepSeekThink(Think):
    """DeepSeek since V3.1 may call within its thoughts, and does not go on with them."""

    ends = ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜DSML｜function_calls>", "<｜DSML｜tool_calls>")


class Gemma4Think(Think):
    """The channel of thoughts, which the template closes at once where the model is not to think."""

    openings = ("<|channel>thought",)
    closings = ("<channel|>",)


def mistral(template: str) -> int:
    return 100 if "[THINK]" in template else 0


def seed_oss(template: str) -> int:
    return 100 if "</seed:think>" in template else 0


def kimi_k2(template: str) -> int:
    return 100 if "<|tool_calls_section_begin|>" in template and "</think>" in template else 0


def gemma4(template: str) -> int:
    return 100 if "<|channel>" in template and "<channel|>" in template else 0


def deepseek(template: str) -> int:
    calls = "<｜tool▁calls▁begin｜>" in template or "｜DSML｜" in template
    return 100 if calls and "</think>" in template else 0
