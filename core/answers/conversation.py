"""How does a conversation become the tokens of a prompt?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from maxserve.core.answers.bodies import ChatBody, ContentPart, Message
from maxserve.core.answers.jobs import encoded
from maxserve.core.answers.roles import knows_developer
from maxserve.core.answers.tool_prompt import knows_tools, told_of_tools
from maxserve.core.answers.tools import ToolChoice
from maxserve.core.errors import RequestError
from maxserve.core.interfaces import ReadImage, ServerContext
from maxserve.core.model.chat_messages import IMAGE_PART
from maxserve.core.model.chat_template import RESERVED_VARIABLES
from maxserve.core.model.image_prompt import image_prompt
from maxserve.core.nouns import Image


class Conversations:
    """Renders conversations with the chat template of the served model. Safe from several threads at once."""

    def __init__(self, context: ServerContext) -> None:
        self._template = context.template
        self._tokenizer = context.tokenizer
        self._info = context.model
        self._placeholder = None if context.images is None else context.images.placeholder
        self._knows_tools = knows_tools(context.template, context.tokenizer.special_tokens)
        self._knows_developer = knows_developer(context.template, context.tokenizer.special_tokens)

    def text(self, body: ChatBody, choice: ToolChoice) -> str:
        """The prompt's text, special tokens spelled out. A template that knows no tools is told of them in words."""
        _check_template_kwargs(body.chat_template_kwargs or {})
        prompted = _wants_generation_prompt(body)
        turns = [self._turn(index, message) for index, message in enumerate(body.messages)]
        tools = choice.for_template
        if tools and not self._knows_tools:
            turns, tools = told_of_tools(turns, choice), None
        return self._template.render(
            turns,
            tools=tools,
            add_generation_prompt=prompted,
            continue_final_message=not prompted and bool(body.continue_final_message),
            special_tokens=self._tokenizer.special_tokens,
            image_text=self._placeholder,
            **(body.chat_template_kwargs or {}),
        )

    def tokens(self, text: str, images: Sequence[ReadImage] = ()) -> tuple[list[int], tuple[Image, ...]]:
        """The tokens of what `text` gave, the template having put special ones where they belong, and its images."""
        if not images or self._placeholder is None:
            return self._encoded(text), ()
        return image_prompt(text, images, self._placeholder, self._tokenizer, self._encoded)

    def _encoded(self, text: str) -> list[int]:
        return encoded(text, self._tokenizer, self._info, add_special_tokens=False, prompt_field="messages")

    def _turn(self, index: int, message: Message) -> dict[str, Any]:
        """A message as the template takes it: nothing that was not given."""
        where = f"messages[{index}].content"
        if message.content is None and message.role != "assistant":
            raise RequestError(f"{where}: a message of the {message.role} needs content", param=where)
        if isinstance(message.content, list):
            _check_parts(message.content, where)
        turn = message.model_dump(exclude_none=True)
        if isinstance(message.content, list):
            turn["content"] = [IMAGE_PART if part["type"] == "image_url" else part for part in turn["content"]]
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
    """RequestError for content that is neither text nor a picture."""
    for index, part in enumerate(parts):
        if part.type == "image_url":
            continue  # looked at when the pictures were read
        if part.type != "text":
            message = f"content of type {part.type[:64]!r} is not supported; this server takes text and image_url"
            raise RequestError(message, param=f"{where}[{index}].type", code="unsupported_parameter")
        if part.text is None:
            raise RequestError("a text part needs a text", param=f"{where}[{index}].text")
