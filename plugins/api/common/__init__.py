"""What HTTP dialects have in common: from a chat to the parts of an answer.

As a plugin it gives the Jinja templates of models, and the options of conversations and answers.
"""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.chat_template import ChatTemplate, ChatTemplateContext
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """How conversations become prompts, and how answers are read."""
    yield ConfigSection(
        name="conversations",
        schema="maxserve.plugins.api.common.options:ConversationOptions",
        within="model",
        check="maxserve.plugins.api.common.options:check_conversations",
    )
    yield ConfigSection(name="answers", schema="maxserve.plugins.api.common.options:AnswerOptions", within="server")
    yield ConfigSection(name="echo", schema="maxserve.plugins.api.common.options:EchoOptions", within="sampling")


@hookimpl
def maxserve_chat_template(context: ChatTemplateContext) -> ChatTemplate | None:
    """The Jinja template of the model's folder, or of --chat-template."""
    from maxserve.plugins.api.common.chat_template import JinjaTemplate
    from maxserve.plugins.api.common.options import ConversationOptions

    template = JinjaTemplate.load(context.path, context.config(ConversationOptions).chat_template)
    return template if template.present else None
