"""Conversations as the text of one prompt.

What a client says is brought into the form that the model's chat template takes (`chat_messages`), and what the
template does not show of it is given to it in another way (`chat_history`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jinja2.nodes

from maxserve.interfaces.chat_template import ChatTemplate
from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.api.common.chat_history import HistoryOptions, histories
from maxserve.plugins.api.common.chat_messages import as_messages, plain
from maxserve.plugins.api.common.chat_template import JinjaTemplate, syntax_tree
from maxserve.plugins.api.common.template_probe import Message, TemplateProbe
from maxserve.plugins.api.common.template_sandbox import TemplateOverrun, template_budget

_OPEN_END = "<<the assistant goes on here>> "  # its last space tells whether the template trims messages
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
"""Names that clients cannot give a template as variables of their own: the server gives them."""


class ChatRenderer:
    """Renders conversations with one chat template. Safe from several threads at once."""

    def __init__(self, template: ChatTemplate | None, special_tokens: Mapping[str, str]) -> None:
        self.present = template is not None
        self.template = JinjaTemplate({}) if template is None else template  # which refuses every conversation
        self._special_tokens = special_tokens
        self._known: dict[bool, tuple[TemplateProbe, bool]] = {}
        self._lock = threading.Lock()

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        image_text: str | None = None,
        calls_in_words: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt's text. RequestError when there is no template or the template refuses the conversation.

        `continue_final_message` leaves the last message open for the model to go on with, which excludes a
        generation prompt. `image_text` stands for an image where the template expects strings. `calls_in_words`: past
        calls and results as text, though the template may know them. `variables` are what else it may read.
        """
        probe, strings = self._probed(tools is not None)
        conversation = as_messages(messages)
        opening = None
        if continue_final_message:
            opening, conversation = _open_last(conversation)
        values = {
            "documents": None,
            **self._special_tokens,
            **plain(variables),
            "tools": plain(tools),
            "add_generation_prompt": add_generation_prompt and not continue_final_message,
        }
        options = HistoryOptions(in_words=calls_in_words, image_text=image_text, strings=strings)
        with template_budget():
            text = self._first(values, partial(histories, conversation, probe, options))
        return text if opening is None else _cut_open_end(text, opening)

    def probe(self, *, tools: bool) -> TemplateProbe | None:
        """What is known of the template with or without tools; None where there is none."""
        try:
            return self._probed(tools)[0] if self.present else None
        except RequestError:
            return None

    def _probed(self, tools: bool) -> tuple[TemplateProbe, bool]:
        """The probe, and whether contents are strings where it finds nothing out."""
        with self._lock:
            if tools not in self._known:
                tree = syntax_tree(self.template, tools=tools)
                strings = tree is not None and not _iterates_over_content(tree)
                self._known[tools] = TemplateProbe(self._prober(tools)), strings
            return self._known[tools]

    def _prober(self, tools: bool) -> Callable[[list[Message]], str]:
        values = {
            "documents": None,
            **self._special_tokens,
            "tools": [_PROBE_TOOL] if tools else None,
            "add_generation_prompt": True,
        }

        def run(messages: list[Message]) -> str:
            with template_budget(probe=True):
                return self.template.render({**values, "messages": messages}, tools=tools)

        return run

    def _first(self, values: Mapping[str, Any], tried: Callable[[], Iterable[list[Message]]]) -> str:
        """The text of the first conversation that the template takes; else what it says of the first one.

        Templates for tools go through a list of them, which is then an empty one.
        """
        refusal: RequestError | None = None
        given = values["tools"] is not None
        for tools in [values["tools"]] if given else [None, []]:
            for conversation in tried():
                try:
                    return self.template.render({**values, "messages": conversation, "tools": tools}, tools=given)
                except RequestError as error:
                    refusal = refusal or error
                    if isinstance(error.__cause__, TemplateOverrun):
                        raise
        assert refusal is not None
        raise refusal


def chat_renderer(context: ServerContext) -> ChatRenderer:
    """That of one application: `context.once(chat_renderer)`."""
    return ChatRenderer(context.template, context.tokenizer.special_tokens)


def _open_last(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """What the last message says, and the conversation with a mark behind it."""
    content = messages[-1].get("content")
    if isinstance(content, str):
        return content, [*messages[:-1], messages[-1] | {"content": content + _OPEN_END}]
    parts = list(content) if isinstance(content, list) else []
    for i in reversed(range(len(parts))):
        if isinstance(parts[i], dict) and isinstance(opening := parts[i].get("text"), str):
            parts[i] = parts[i] | {"text": opening + _OPEN_END}
            return opening, [*messages[:-1], messages[-1] | {"content": parts}]
    raise RequestError("continue_final_message needs a last message with text to continue", param="messages")


def _cut_open_end(text: str, opening: str) -> str:
    mark = _OPEN_END.strip()
    position = text.rfind(mark)
    if position < 0 or opening.strip() not in text:
        raise RequestError(
            "continue_final_message: the chat template leaves the last message out or rewrites it",
            param="continue_final_message",
        )
    kept = text[:position]
    return kept if text.startswith(_OPEN_END, position) else kept.rstrip()


def _iterates_over_content(tree: jinja2.nodes.Template) -> bool:
    """Whether a template walks through the parts of a message's content, rather than expecting a string."""
    return any(_names_content(loop.iter, _aliases(tree)) for loop in tree.find_all(jinja2.nodes.For))


def _aliases(tree: jinja2.nodes.Template) -> set[str]:
    """Variables the template sets to a message's content."""
    sets = tree.find_all(jinja2.nodes.Assign)
    return {s.target.name for s in sets if isinstance(s.target, jinja2.nodes.Name) and _names_content(s.node, set())}


def _names_content(node: jinja2.nodes.Node, aliases: set[str]) -> bool:
    checks: dict[type[jinja2.nodes.Node], Callable[[Any], bool]] = {
        jinja2.nodes.Name: lambda n: n.name in aliases or n.name == "content",
        jinja2.nodes.Getattr: lambda n: n.attr == "content",
        jinja2.nodes.Getitem: lambda n: isinstance(n.arg, jinja2.nodes.Const) and n.arg.value == "content",
        jinja2.nodes.Filter: lambda n: n.node is not None and _names_content(n.node, aliases),
    }
    check = checks.get(type(node))
    return check is not None and check(node)
