"""Conversations as the tokens of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.images import ReadImage
from maxserve.interfaces.request import Image
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.bodies import ChatBody, ContentPart, Message
from maxserve.plugins.api.common.chat_messages import IMAGE_PART, check_role
from maxserve.plugins.api.common.chat_renderer import RESERVED_VARIABLES, chat_renderer
from maxserve.plugins.api.common.client_text import ClientText, Conversation, client_texts
from maxserve.plugins.api.common.literal_encoding import PromptEncoder, PromptText, prompt_encoder
from maxserve.plugins.api.common.options import ConversationOptions
from maxserve.plugins.api.common.reasoning import Asked, ReasoningControls
from maxserve.plugins.api.common.requests import check_length
from maxserve.plugins.api.common.tool_prompt import knows_tools, with_tools_described
from maxserve.plugins.api.common.tools import ToolChoice

_SPEAKERS = ("system", "developer", "user")  # whose messages without content are a mistake; a null one is empty
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking")  # parts that some clients send back
_TEXTS = ("text", "input_text", "output_text")  # what the APIs call a part of text


class Conversations:
    """Renders conversations with the chat template of the served model. Safe from several threads at once."""

    def __init__(self, context: ServerContext) -> None:
        self._context = context
        self.renderer = chat_renderer(context)
        self._tokenizer = context.tokenizer
        self._info = context.model
        self._placeholder = None if context.images is None else context.images.placeholder
        self._knows_tools = knows_tools(self.renderer)
        self.controls = ReasoningControls.of(self.renderer)

    def thinking(self, body: ChatBody) -> Asked:
        """What `body` says of reasoning; RequestError for what cannot be kept."""
        return self.controls.asked(body)

    def text(self, body: ChatBody, choice: ToolChoice) -> str:
        """The prompt's text, special tokens spelled out. A template that knows no tools has them described in words."""
        return self._written(body, choice, self._conversation(body, choice))

    def prompt(self, body: ChatBody, choice: ToolChoice) -> PromptText:
        """The same text, and which of its characters are no part of a special token, since a client wrote them."""
        conversation = self._conversation(body, choice)
        if self._client is None:
            return PromptText(self._written(body, choice, conversation))
        for text in client_texts(conversation):  # before anything is looked for in megabytes
            check_length(text, self._tokenizer, self._info, prompt_field="messages")
        source = self.renderer.template.source(tools=conversation.tools is not None)
        written = partial(self._written, body, choice)
        return self._client.render(written, conversation, source, self._placeholder, _variables(body))

    def tokens(self, prompt: PromptText, images: Sequence[ReadImage] = ()) -> tuple[list[int], tuple[Image, ...]]:
        """The tokens of what `prompt` gave, the template having put special ones where they belong, and its images."""
        if not images or self._placeholder is None:
            return self._encoded(prompt), ()
        from maxserve.plugins.vision.image_prompt import image_prompt  # numpy, which other prompts do without

        return image_prompt(prompt, images, self._placeholder, self._tokenizer, self._encoded)

    @cached_property
    def _prompts(self) -> PromptEncoder:
        return self._context.once(prompt_encoder)

    @cached_property
    def _client(self) -> ClientText | None:
        literal = not self._context.config(ConversationOptions).special_tokens_in_content
        return ClientText(self._prompts) if literal else None

    def _conversation(self, body: ChatBody, choice: ToolChoice) -> Conversation:
        """What the client gives the template."""
        messages = [self._message(index, message) for index, message in enumerate(body.messages)]
        return Conversation(messages=messages, tools=choice.for_template, documents=_variables(body).get("documents"))

    def _written(self, body: ChatBody, choice: ToolChoice, conversation: Conversation) -> str:
        prompted = _wants_generation_prompt(body)
        messages, tools = conversation.messages, conversation.tools
        in_words = bool(tools) and not self._knows_tools
        if in_words and tools:
            messages, tools = with_tools_described(messages, _callable(tools, choice), choice.mode), None
        return self.renderer.render(
            messages,
            tools=tools,
            add_generation_prompt=prompted,
            continue_final_message=not prompted and goes_on(body),
            image_text=self._placeholder,
            calls_in_words=in_words,
            **{**self.thinking(body).variables, **_variables(body), "documents": conversation.documents},
        )

    def _encoded(self, prompt: PromptText) -> list[int]:
        check_length(prompt.text, self._tokenizer, self._info, prompt_field="messages")
        return self._prompts.encode(prompt)

    def _message(self, index: int, message: Message) -> dict[str, Any]:
        """A message as templates take it: nothing that was not given, and images as such."""
        where = f"messages[{index}]"
        if "content" not in message.model_fields_set and message.role in _SPEAKERS:
            raise RequestError(f"{where}.content: a message of the {message.role} needs it", param=f"{where}.content")
        rendered = message.model_dump(exclude_none=True)
        rendered["role"] = check_role(message.role, f"{where}.role")
        if isinstance(message.content, list):
            parts = list(enumerate(message.content))
            thoughts = [_thought(part) for _, part in parts if _is_thought(part, message.role)]
            shown = [(i, part) for i, part in parts if not _is_thought(part, message.role)]
            rendered["content"] = [_part(part, f"{where}.content[{i}]") for i, part in shown]
            if any(thoughts):
                rendered.setdefault("reasoning_content", "\n".join(filter(None, thoughts)))
        return rendered


def _callable(tools: Sequence[Any], choice: ToolChoice) -> list[Any]:
    """The functions that are described in words: of several, the one that must be called."""
    functions = [tool["function"] for tool in tools]
    if choice.mode != "named":
        return functions
    at = choice.declared.index(choice.tools[0])
    return functions[at : at + 1]


def _variables(body: ChatBody) -> dict[str, Any]:
    """What else the template is given; RequestError for what the server itself gives."""
    kwargs = body.chat_template_kwargs or {}
    taken = sorted(RESERVED_VARIABLES & kwargs.keys())
    if taken:
        message = f"chat_template_kwargs must not have {taken[0]!r}, which the server gives to the template itself"
        raise RequestError(message, param=f"chat_template_kwargs.{taken[0]}")
    return kwargs


def goes_on(body: ChatBody) -> bool:
    """Whether the answer goes on with the last message; on the message itself it is called prefix, or partial."""
    if body.continue_final_message is not None:
        return body.continue_final_message
    last = body.messages[-1]
    marks = (last.model_extra or {}).get("prefix"), (last.model_extra or {}).get("partial")
    return last.role == "assistant" and True in marks and not body.add_generation_prompt


def _wants_generation_prompt(body: ChatBody) -> bool:
    continued = goes_on(body)
    prompted = not continued if body.add_generation_prompt is None else body.add_generation_prompt
    if continued and prompted:
        message = "continue_final_message and add_generation_prompt exclude each other"
        raise RequestError(message, param="continue_final_message")
    return prompted


def _is_thought(part: ContentPart, role: str) -> bool:
    return role == "assistant" and part.type in _THOUGHTS


def _thought(part: ContentPart) -> str:
    """What a part of an assistant's says that it thought; nothing where that is not described in words."""
    text = (part.model_extra or {}).get(part.type, part.text)
    if isinstance(text, list):
        text = "".join(str(each.get("text") or "") for each in text if isinstance(each, dict))
    return text if isinstance(text, str) else ""


def _part(part: ContentPart, where: str) -> dict[str, Any]:
    """A part as templates know it; RequestError for content that is neither text nor an image."""
    if part.type == "image_url":
        return IMAGE_PART  # looked at when the images were read
    text = part.text if part.type in _TEXTS else part.refusal if part.type == "refusal" else None
    if part.type not in (*_TEXTS, "refusal"):
        message = f"content of type {part.type[:64]!r} is not supported; this server takes text and image_url"
        raise RequestError(message, param=f"{where}.type", code="unsupported_parameter")
    if text is None and not {"text", "refusal"} & part.model_fields_set:
        raise RequestError("a text part needs a text", param=f"{where}.text")
    return {"type": "text", "text": text or ""}
