"""The chat templates of a model: a conversation becomes the text of one prompt.

Templates are Jinja text that comes with the model, so they run sandboxed; they see the names and filters that
transformers gives them, and the same text comes out. What a template does not show of a conversation is said to it in
another way (`chat_history`).
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jinja2

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.core.text.chat_history import HistoryOptions, histories
from maxserve.core.text.chat_messages import as_messages, plain
from maxserve.core.text.template_budget import TemplateOverrun, budget
from maxserve.core.text.template_environment import iterates_over_content, template_environment
from maxserve.core.text.template_probe import Message, TemplateProbe
from maxserve.core.text.template_sources import find_templates

# What a template does wrong with a conversation it was not written for surfaces as one of these.
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
# What a file that is no template, or a monstrous one, does to the compiler.
_COMPILER_FAULTS = (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError)
_CHANGE = re.compile(r"\.\s*(append|pop)\b")
_OPEN_END = "<<the assistant goes on here>> "  # its last space tells whether the template trims messages
_PROBE_STEPS, _PROBE_SECONDS = 100_000, 20.0
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": "kqztool",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"value": {"type": "string", "description": "A value."}}},
    },
}

RESERVED_VARIABLES = frozenset(
    {
        "messages",
        "tools",
        "add_generation_prompt",
        "continue_final_message",
        "special_tokens",
        "image_text",
        "calls_in_words",
        "self",
    }
)
"""Names that clients cannot give a template as variables of their own: they are arguments of `render`."""


class ChatTemplate:
    """The templates of one model. Rendering is safe from several threads at once."""

    def __init__(self, sources: Mapping[str, str], origin: str = "the chat template") -> None:
        self._origin = origin
        self._sources = dict(sources)
        self._compiled = {name: _compile(source, origin) for name, source in sources.items()}
        self._strings = {name: not iterates_over_content(source) for name, source in sources.items()}
        self._changing = {name for name, source in sources.items() if _CHANGE.search(source)}
        self._probes: dict[tuple[str, bool], TemplateProbe] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(cls, path: str, override: str | None) -> ChatTemplate:
        """The template of a model folder, or the one in the file `override`.

        ModelError if it cannot be read, or takes forever for the shortest conversation.
        """
        sources, origin = find_templates(path, override)
        template = cls(sources, origin)
        template.check_ends()
        return template

    @property
    def present(self) -> bool:
        """Whether the model has a template at all."""
        return bool(self._sources)

    def source(self, *, tools: bool = False) -> str | None:
        """The Jinja text used with or without tools."""
        return self._sources.get(self._choose(tools)) if self.present else None

    def check_ends(self) -> None:
        """ModelError for a template that does not come to an end with one short message."""
        values = {"messages": [{"role": "user", "content": "?"}], "tools": None, "add_generation_prompt": True}
        for compiled in self._compiled.values():
            try:
                with budget(_PROBE_STEPS, _PROBE_SECONDS):
                    compiled.render(**values)
            except TemplateOverrun as error:
                message = f"{self._origin} cannot be used: {error}; give another one with --chat-template"
                raise ModelError(message) from error
            except _TEMPLATE_FAULTS:
                continue  # it wants another conversation

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        special_tokens: Mapping[str, str],
        image_text: str | None = None,
        calls_in_words: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt's text. RequestError when there is no template or the template refuses the conversation.

        `continue_final_message` leaves the last message open for the model to go on with, which excludes a
        generation prompt. `image_text` stands for an image where the template expects strings. `calls_in_words`: past
        calls and results as text, though the template may know them. `variables` are what else it may read.
        """
        name = self._choose(tools is not None)
        conversation = as_messages(messages)
        said = None
        if continue_final_message:
            said, conversation = _open_last(conversation)
        values = {
            "documents": None,
            **special_tokens,
            **plain(variables),
            "tools": plain(tools),
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        options = HistoryOptions(in_words=calls_in_words, image_text=image_text, strings=self._strings[name])
        probe = self._probe(name, tools is not None, special_tokens)
        with budget():
            text = self._first(name, values, partial(histories, conversation, probe, options))
        return text if said is None else _cut_open_end(text, said)

    def probe(self, *, tools: bool, special_tokens: Mapping[str, str]) -> TemplateProbe | None:
        """What is known of the template with or without tools; None where there is none."""
        try:
            return self._probe(self._choose(tools), tools, special_tokens)
        except RequestError:
            return None

    def _probe(self, name: str, tools: bool, special_tokens: Mapping[str, str]) -> TemplateProbe:
        with self._lock:
            if (name, tools) not in self._probes:
                self._probes[name, tools] = TemplateProbe(self._prober(name, tools, special_tokens))
            return self._probes[name, tools]

    def _prober(self, name: str, tools: bool, special_tokens: Mapping[str, str]) -> Callable[[list[Message]], str]:
        values = {
            "documents": None,
            **special_tokens,
            "tools": [_PROBE_TOOL] if tools else None,
            "add_generation_prompt": True,
        }

        def run(messages: list[Message]) -> str:
            with budget(_PROBE_STEPS, _PROBE_SECONDS):
                return self._run(name, {**values, "messages": messages})

        return run

    def _first(self, name: str, values: Mapping[str, Any], tried: Callable[[], Iterable[list[Message]]]) -> str:
        """The text of the first conversation that the template takes; else what it says of the first one.

        Templates for tools go through a list of them, which is then an empty one.
        """
        refusal: RequestError | None = None
        for tools in [values["tools"]] if values["tools"] is not None else [None, []]:
            for conversation in tried():
                try:
                    return self._run(name, {**values, "messages": conversation, "tools": tools})
                except RequestError as error:
                    refusal = refusal or error
                    if isinstance(error.__cause__, TemplateOverrun):
                        raise
        assert refusal is not None
        raise refusal

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
        if name in self._changing:  # what it is given, maybe: that is needed again
            values = {key: plain(value) if key in ("messages", "tools") else value for key, value in values.items()}
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
    except _COMPILER_FAULTS as error:
        reason = str(error) or type(error).__name__
        raise ModelError(f"{origin} cannot be compiled: {reason}; give another one with --chat-template") from error


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
