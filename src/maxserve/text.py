"""Tokenizer, detokenizer and chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.chat_template import ChatTemplate, find_templates
    from maxserve.core.text.detokenizer import Detokenizer
    from maxserve.core.text.grammar_vocabulary import grammar_context
    from maxserve.core.text.literal_encoding import PromptText
    from maxserve.core.text.template_sandbox import TemplateOverrun, stand_ins, template_budget
    from maxserve.core.text.tokenizer import Tokenizer, Truncation, TruncationSide

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "PromptText",
    "TruncationSide",
    "TemplateOverrun",
    "Tokenizer",
    "Truncation",
    "find_templates",
    "grammar_context",
    "stand_ins",
    "template_budget",
]

__getattr__ = exports(
    __name__,
    {
        "ChatTemplate": "maxserve.core.text.chat_template",
        "Detokenizer": "maxserve.core.text.detokenizer",
        "PromptText": "maxserve.core.text.literal_encoding",
        "TruncationSide": "maxserve.core.text.tokenizer",
        "TemplateOverrun": "maxserve.core.text.template_sandbox",
        "Tokenizer": "maxserve.core.text.tokenizer",
        "Truncation": "maxserve.core.text.tokenizer",
        "find_templates": "maxserve.core.text.chat_template",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
        "stand_ins": "maxserve.core.text.template_sandbox",
        "template_budget": "maxserve.core.text.template_sandbox",
    },
)
