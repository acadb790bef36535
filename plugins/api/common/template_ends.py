"""The token by which a chat template ends an assistant's message, found with a few short conversations."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from maxserve.interfaces.chat_template import ChatTemplate
from maxserve.interfaces.errors import RequestError

Message = dict[str, Any]

log = logging.getLogger("maxserve.model")

# Words that no template writes by itself, in the messages of a probe.
_QUESTION, _THOUGHT, _ANSWER, _ARGUMENT = "Qprobe", "Tprobe", "Aprobe", "Vprobe"


def template_ends(template: ChatTemplate, special: Mapping[str, str], added: Iterable[str]) -> list[str]:
    """The token out of `added` that a template writes right after an assistant's text, if there is one.

    A token that it also writes within a message, between thoughts, text and calls, ends none. What follows a call is
    not looked at: it may be the end of a list of calls, which a parser has to see.
    """
    probe = _Probe(template, special, sorted(added, key=len, reverse=True))
    within = set(probe.tokens(_between(probe.render(calls=2), _ARGUMENT)))
    end = probe.after_text()
    return [end] if end and end not in within else []


class _Probe:
    """Renders conversations with known words, and finds tokens beside those."""

    def __init__(self, template: ChatTemplate, special: Mapping[str, str], added: list[str]) -> None:
        self._template = template
        self._special = special
        self._added = added  # the longest first

    def render(self, *, answers: int = 1, calls: int = 0) -> str:
        """A conversation that ends with an answer, after thoughts where it has `calls`; "" where it is not taken.

        The first form of it in which the template shows all that was written, or else the first that it takes.
        """
        words = [_ANSWER, _ARGUMENT] if calls else [_ANSWER]
        taken = []
        for form in _FORMS:
            messages = [_question(form), _answer(form, calls)] * answers
            for offered in (None, [], [_TOOL]):
                text = self._rendered(messages, offered)
                if all(word in text for word in words):
                    return text
                taken.append(text)
        return next(filter(None, taken), "")

    def _rendered(self, messages: list[Message], offered: list[Message] | None) -> str:
        variables = {"documents": None, **self._special, "messages": messages, "tools": offered}
        try:
            return self._template.render({**variables, "add_generation_prompt": False}, tools=bool(offered))
        except RequestError as error:
            log.debug("the chat template refuses a probe: %s", error)
            return ""

    def tokens(self, text: str) -> Iterator[str]:
        """The added tokens in `text`, one after another."""
        at = 0
        while at < len(text):
            found = self._at(text, at)
            if found:
                yield found
            at += len(found) or 1

    def after_text(self) -> str:
        """The token right after the text of a last message, or, where a template leaves that open, of one before."""
        last = self._at(self.render().rpartition(_ANSWER)[2].lstrip(), 0)
        return last or self._at(self.render(answers=2).partition(_ANSWER)[2].lstrip(), 0)

    def _at(self, text: str, at: int) -> str:
        return next((token for token in self._added if token and text.startswith(token, at)), "")


_TOOL = {
    "type": "function",
    "function": {
        "name": "probe",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"value": {"type": "string"}}, "required": ["value"]},
    },
}


class _Form(msgspec.Struct, frozen=True, kw_only=True):
    """How a template may want an answer: its text as a list of parts or within the thoughts, arguments as text."""

    parts: bool = False
    in_thoughts: bool = False
    text_arguments: bool = False

    def content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self.parts else text


_FORMS = tuple(
    _Form(parts=parts, in_thoughts=in_thoughts, text_arguments=text)
    for parts, in_thoughts in ((False, False), (True, False), (False, True))
    for text in (False, True)
)


def _question(form: _Form) -> Message:
    return {"role": "user", "content": form.content(_QUESTION)}


def _answer(form: _Form, calls: int) -> Message:
    if not calls:
        return {"role": "assistant", "content": form.content(_ANSWER)}
    thoughts = f"{_THOUGHT}\n{_ANSWER}" if form.in_thoughts else _THOUGHT
    arguments = {"value": _ARGUMENT}
    function = {"name": "probe", "arguments": json.dumps(arguments) if form.text_arguments else arguments}
    return {
        "role": "assistant",
        "content": "" if form.in_thoughts else form.content(_ANSWER),
        "thinking": thoughts,
        "reasoning_content": thoughts,
        "tool_calls": [{"id": f"probe{i:04}", "type": "function", "function": function} for i in range(1, calls + 1)],
    }


def _between(text: str, last: str) -> str:
    """From the first word of an answer to the last one of its calls."""
    begins = [at for word in (_THOUGHT, _ANSWER) if (at := text.find(word)) >= 0]
    return text[min(begins) : max(text.rfind(last), max(begins))] if begins else ""
