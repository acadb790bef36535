"""How does a conversation become the tokens of a prompt?"""

from __future__ import annotations

from typing import Any

from maxserve.core.answers.bodies import ChatBody, ContentPart, Message
from maxserve.core.answers.jobs import encoded
from maxserve.core.answers.roles import knows_developer
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ServerContext
from maxserve.core.model.chat_template import RESERVED_VARIABLES


class Conversations:
    """Renders conversations with the chat template of the served model. Safe from several threads at once."""

    def __init__(self, context: ServerContext) -> None:
        self._template = context.template
        self._tokenizer = context.tokenizer
        self._info = context.model
        self._knows_developer = knows_developer(context.template, context.tokenizer.special_tokens)

    def text(self, body: ChatBody) -> str:
        """The prompt's text, special tokens spelled out."""
        _check_template_kwargs(body.chat_template_kwargs or {})
        prompted = _wants_generation_prompt(body)
        return self._template.render(
            [self._turn(index, message) for index, message in enumerate(body.messages)],
            add_generation_prompt=prompted,
            continue_final_message=not prompted and bool(body.continue_final_message),
            special_tokens=self._tokenizer.special_tokens,
            **(body.chat_template_kwargs or {}),
        )

    def tokens(self, text: str) -> list[int]:
        """The tokens of what `text` gave: the template has put the special ones where they belong."""
        return encoded(text, self._tokenizer, self._info, add_special_tokens=False, prompt_field="messages")

    def _turn(self, index: int, message: Message) -> dict[str, Any]:
        """A message as the template takes it: nothing that was not given."""
        where = f"messages[{index}].content"
        if message.content is None and message.role != "assistant":
            raise RequestError(f"{where}: a message of the {message.role} needs content", param=where)
        if isinstance(message.content, list):
            _check_parts(message.content, where)
        turn = message.model_dump(exclude_none=True)
        turn.setdefault("content", "")  # an assistant that only called tools; templates would print None
        if message.role == "developer" and not self._knows_developer:
            turn["role"] = "system"
        return turn


def _check_template_kwargs(kwargs: dict[str, Any]) -> None:
    taken = sorted(RESERVED_VARIABLES & kwargs.keys())
    if taken:
        message = f"chat_template_kwargs must not have {taken[0]!r}, which the server gives to the template itself"
        raise RequestError(message, param=f"chat_template_kwargs.{taken[0]}")


def _wants_generation_prompt(body: ChatBody) -> bool:
    goes_on = bool(body.continue_final_message)
    prompted = not goes_on if body.add_generation_prompt is None else body.add_generation_prompt
    if goes_on and prompted:
        message = "continue_final_message and add_generation_prompt exclude each other"
        raise RequestError(message, param="continue_final_message")
    return prompted


def _check_parts(parts: list[ContentPart], where: str) -> None:
    """RequestError for content that is not text."""
    for index, part in enumerate(parts):
        if part.type != "text":
            message = f"content of type {part.type[:64]!r} is not supported yet; this server takes text"
            raise RequestError(message, param=f"{where}[{index}].type", code="unsupported_parameter")
        if part.text is None:
            raise RequestError("a text part needs a text", param=f"{where}[{index}].text")
