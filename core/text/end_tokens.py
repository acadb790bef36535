"""The tokens that end an answer, from every place where a checkpoint says so.

These are the eos tokens of config.json, of its text part, of generation_config.json and of the tokenizer, and the token
by which the chat template itself ends an assistant's message. Whether an end is hidden, held back (by a sampler),
ignored (`ignore_eos`) or known to a grammar is decided with this one set.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.core.text.chat_template import ChatTemplate
from maxserve.core.text.special_tokens import DeclaredTokens, named_tokens, read_roles
from maxserve.core.text.template_sandbox import OutOfTime, within

Message = dict[str, Any]

log = logging.getLogger("maxserve.model")

_SECONDS = 5.0  # for all probes; a template in use takes some hundredths of one
# Words that no template writes by itself, in the messages of a probe.
_QUESTION, _THOUGHT, _ANSWER, _ARGUMENT = "Qprobe", "Tprobe", "Aprobe", "Vprobe"


def end_tokens(
    path: str,
    config: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    vocab_size: int,
    chat_template: str | None = None,
) -> tuple[int, ...]:
    """The ids, those of the files that are about generating first; none that the model's logits do not have.

    `path` is the model's folder, `chat_template` a file that replaces its template. ModelError for what is no id.
    """
    folder = Path(path)
    roles = read_roles(folder)
    declared, special = DeclaredTokens(folder, roles), named_tokens(roles)
    template = ChatTemplate.load(path, chat_template)
    ids = [*eos_token_ids(generation_config), *eos_token_ids(config), *eos_token_ids(_text_part(config))]
    texts = [special["eos_token"]] if "eos_token" in special else []
    if template.present:
        texts += _ends_in_time(template, special, declared.added)
    ids += [id for text in texts if (id := declared.id(text)) is not None]
    return tuple(id for id in dict.fromkeys(ids) if 0 <= id < vocab_size)


def _ends_in_time(template: ChatTemplate, special: Mapping[str, str], added: Iterable[str]) -> list[str]:
    try:
        return within(_SECONDS, lambda: template_ends(template, special, added))
    except (OutOfTime, MemoryError) as error:
        raise ModelError(
            f"the model's chat template comes to no end with two short messages: {error or 'no memory is left'}; "
            "give another one with --chat-template"
        ) from error


def eos_token_ids(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that one config names: a number, a list or nothing."""
    found = config.get("eos_token_id")
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if any(isinstance(id, bool) or not isinstance(id, int) for id in ids):
        raise ModelError(f"eos_token_id is {found!r} in the model's configuration; a token id or a list is expected")
    return tuple(ids)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
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


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}
