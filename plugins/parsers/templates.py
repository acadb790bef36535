"""Signs in chat templates of how a model writes calls and reasoning.

A template shows past calls in the form in which the model was trained to write them.
"""

from __future__ import annotations

import re

_SURE, _LIKELY, _FALLBACK = 100, 50, 1


_TAG = re.compile(r"</?tool_call>")
# forms that use the tag, or mention it, too
_OTHERS_TAG = ("<function=", "<arg_key>", "<|tool_call|>", "<tool_calls>", "<invoke name=")


def hermes(template: str) -> int:
    return _SURE if _TAG.search(template) and not any(mark in template for mark in _OTHERS_TAG) else 0


def qwen3_coder(template: str) -> int:
    return _SURE if _TAG.search(template) and "<function=" in template else 0


def mistral(template: str) -> int:
    return _SURE if "[TOOL_CALLS]" in template else 0


def llama3(template: str) -> int:
    if "<|start_header_id|>" not in template:
        return 0
    if "<function=" in template and "<tool_call>" not in template:  # as Functionary 3.1 has it
        return _SURE
    if '"parameters"' not in template:
        return 0
    return _SURE if "<|python_tag|>" in template else _LIKELY


def pythonic(template: str) -> int:
    if "<|header_start|>" in template:  # Llama 4 has a parser of its own
        return 0
    if "<|python_start|>" in template or "<|tool_call_start|>" in template or "<|tool_list_start|>" in template:
        return _SURE  # the last two are those of LFM2
    return _LIKELY if re.search(r"\[\s*func_name\d?\(|\[func\w*\(param", template) else 0


def any_tools(template: str) -> int:
    """For a form that no other parser knows: every template may be of a model that writes JSON."""
    return _FALLBACK


def think(template: str) -> int:
    """Other parsers of reasoning know what goes with these tags in some families."""
    more = ("<response></response>", "<|tool_calls_section_begin|>", "<｜tool▁calls▁begin｜>", "｜DSML｜")
    return _SURE if "</think>" in template and not any(mark in template for mark in more) else 0
