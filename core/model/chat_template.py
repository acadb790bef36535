"""How does a conversation become one prompt?

Templates are Jinja text that comes with the model, so they run sandboxed; they see the names and filters that
transformers gives them, and the same text comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from maxserve.core.errors import ModelError, RequestError
from maxserve.core.model.chat_messages import as_messages, join_text_parts, plain
from maxserve.core.model.template_environment import iterates_over_content, template_environment
from maxserve.core.model.template_sources import find_templates

# What a template does wrong with a conversation it was not written for surfaces as one of these.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
_OPEN_END = "<<the assistant goes on here>> "  # its last space tells whether the template trims messages

RESERVED_VARIABLES = frozenset(
    {"messages", "tools", "add_generation_prompt", "continue_final_message", "special_tokens", "image_text", "self"}
)
"""Names that clients cannot give a template as variables of their own: they are arguments of `render`."""


class ChatTemplate:
    """The templates of one model. Rendering is safe from several threads at once."""

    def __init__(self, sources: Mapping[str, str], origin: str = "the chat template") -> None:
        self._origin = origin
        self._sources = dict(sources)
        self._compiled = {name: _compile(source, origin) for name, source in sources.items()}
        self._takes_parts = {name: iterates_over_content(source) for name, source in sources.items()}

    @classmethod
    def load(cls, path: str, override: str | None) -> ChatTemplate:
        """The template of a model folder, or the one in the file `override`; a ModelError if it cannot be read."""
        sources, origin = find_templates(path, override)
        return cls(sources, origin)

    @property
    def present(self) -> bool:
        """Whether the model has a template at all."""
        return bool(self._sources)

    def source(self, *, tools: bool = False) -> str | None:
        """The Jinja text used with or without tools."""
        return self._sources.get(self._choose(tools)) if self.present else None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        special_tokens: Mapping[str, str],
        image_text: str | None = None,
        **variables: Any,
    ) -> str:
        """The prompt's text. RequestError when there is no template or the template refuses the conversation.

        `continue_final_message` leaves the last message open for the model to go on with, which excludes a
        generation prompt. `image_text` stands for an image where the template expects strings. `variables` are what
        else the template may read.
        """
        name = self._choose(tools is not None)
        conversation = as_messages(messages)
        if not self._takes_parts[name]:
            conversation = join_text_parts(conversation, image_text)
        said = None
        if continue_final_message:
            said, conversation = _open_last(conversation)
        values = {
            "documents": None,
            **special_tokens,
            **plain(variables),
            "messages": conversation,
            "tools": plain(tools),
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        text = self._run(name, values)
        return text if said is None else _cut_open_end(text, said)

    def _choose(self, tools: bool) -> str:
        if not self._sources:
            raise RequestError(
                "this model has no chat template: use /v1/completions, or start the server with --chat-template FILE",
                param="messages",
            )
        if tools and "tool_use" in self._sources:
            return "tool_use"
        if "default" not in self._sources:
            names = ", ".join(sorted(self._sources))
            raise RequestError(f"this model has several chat templates ({names}) and none is the default one")
        return "default"

    def _run(self, name: str, values: Mapping[str, Any]) -> str:
        try:
            return self._compiled[name].render(**values)
        except _TEMPLATE_FAULTS as error:
            reason = str(error) or type(error).__name__
            raise RequestError(f"the chat template refused the conversation: {reason}", param="messages") from error


def _compile(source: str, origin: str) -> jinja2.Template:
    try:
        return template_environment().from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ModelError(
            f"{origin} is not a valid Jinja template: {error.message} (line {error.lineno}); "
            "give another one with --chat-template"
        ) from error


def _open_last(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What the last message says, and the conversation with a mark behind it."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        return content, [*messages[:-1], messages[-1] | {"content": content + _OPEN_END}]
    parts = list(content) if isinstance(content, list) else []
    for i in reversed(range(len(parts))):
        if isinstance(parts[i], dict) and isinstance(said := parts[i].get("text"), str):
            parts[i] = parts[i] | {"text": said + _OPEN_END}
            return said, [*messages[:-1], messages[-1] | {"content": parts}]
    raise RequestError("continue_final_message needs a last message with text to continue", param="messages")


def _cut_open_end(text: str, said: str) -> str:
    mark = _OPEN_END.strip()
    position = text.rfind(mark)
    if position < 0 or said.strip() not in text:
        raise RequestError(
            "continue_final_message: the chat template leaves the last message out or rewrites it",
            param="continue_final_message",
        )
    kept = text[:position]
    return kept if text.startswith(_OPEN_END, position) else kept.rstrip()
