"""Tokenizer, detokenizer and chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maxserve._lazy import exports

if TYPE_CHECKING:
    from maxserve.core.text.chat_messages import IMAGE_PART, check_role, joined_content
    from maxserve.core.text.chat_template import RESERVED_VARIABLES, ChatTemplate
    from maxserve.core.text.client_text import ClientText, Conversation, client_texts
    from maxserve.core.text.detokenizer import Detokenizer, StopStrings
    from maxserve.core.text.grammar_vocabulary import grammar_context
    from maxserve.core.text.prompt_text import PromptText, joined
    from maxserve.core.text.template_environment import template_environment
    from maxserve.core.text.template_sources import find_templates
    from maxserve.core.text.tokenizer import Tokenizer
    from maxserve.core.text.truncation import Side, Truncation, truncation_of

__all__ = [
    "ChatTemplate",
    "ClientText",
    "Conversation",
    "Detokenizer",
    "IMAGE_PART",
    "PromptText",
    "RESERVED_VARIABLES",
    "Side",
    "StopStrings",
    "Tokenizer",
    "Truncation",
    "check_role",
    "client_texts",
    "find_templates",
    "grammar_context",
    "joined",
    "joined_content",
    "template_environment",
    "truncation_of",
]

__getattr__ = exports(
    __name__,
    {
        "ChatTemplate": "maxserve.core.text.chat_template",
        "ClientText": "maxserve.core.text.client_text",
        "Conversation": "maxserve.core.text.client_text",
        "Detokenizer": "maxserve.core.text.detokenizer",
        "IMAGE_PART": "maxserve.core.text.chat_messages",
        "PromptText": "maxserve.core.text.prompt_text",
        "RESERVED_VARIABLES": "maxserve.core.text.chat_template",
        "Side": "maxserve.core.text.truncation",
        "StopStrings": "maxserve.core.text.detokenizer",
        "Tokenizer": "maxserve.core.text.tokenizer",
        "Truncation": "maxserve.core.text.truncation",
        "check_role": "maxserve.core.text.chat_messages",
        "client_texts": "maxserve.core.text.client_text",
        "find_templates": "maxserve.core.text.template_sources",
        "grammar_context": "maxserve.core.text.grammar_vocabulary",
        "joined": "maxserve.core.text.prompt_text",
        "joined_content": "maxserve.core.text.chat_messages",
        "template_environment": "maxserve.core.text.template_environment",
        "truncation_of": "maxserve.core.text.truncation",
    },
)
