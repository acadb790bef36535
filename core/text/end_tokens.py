"""The tokens that end an answer, from every place where a checkpoint says so.

These are the eos tokens of config.json, of its text part, of generation_config.json and of the tokenizer, and the token
by which the chat template itself ends an assistant's message. Whether an end is hidden, held back (by a sampler),
ignored (`ignore_eos`) or known to a grammar is decided with this one set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maxserve.core.interfaces.errors import ModelError, RequestError
from maxserve.core.text.chat_template import ChatTemplate
from maxserve.core.text.declared_tokens import DeclaredTokens
from maxserve.core.text.special_tokens import named_tokens, read_roles
from maxserve.core.text.time_limit import OutOfTime, within

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
    declared, special = DeclaredTokens(folder), named_tokens(read_roles(folder))
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
    within = set(probe.tokens(_between(probe.render(_message(thought=True, calls=2)), _ARGUMENT)))
    end = probe.after_text()
    return [end] if end and end not in within else []


class _Probe:
    """Renders conversations with known words, and finds tokens beside those."""

    def __init__(self, template: ChatTemplate, special: Mapping[str, str], added: list[str]) -> None:
        self._template = template
        self._special = special
        self._added = added  # the longest first

    def render(self, *answers: dict[str, Any]) -> str:
        """A conversation that ends with the last of `answers`; "" where the template takes none of that kind."""
        question = {"role": "user", "content": _QUESTION}
        messages = [message for answer in answers for message in (question, answer)]
        for offered in (None, [_TOOL]):
            try:
                return self._template.render(
                    messages, tools=offered, add_generation_prompt=False, special_tokens=self._special
                )
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
        last = self._at(self.render(_message()).rpartition(_ANSWER)[2].lstrip(), 0)
        return last or self._at(self.render(_message(), _message()).partition(_ANSWER)[2].lstrip(), 0)

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


def _message(*, thought: bool = False, calls: int = 0) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _ANSWER}
    if thought:
        message["reasoning_content"] = _THOUGHT
    if calls:
        function = {"name": "probe", "arguments": {"value": _ARGUMENT}}
        message["tool_calls"] = [
            {"id": f"probe{i:04}", "type": "function", "function": function} for i in range(1, calls + 1)
        ]
    return message


def _between(text: str, last: str) -> str:
    """From the first word of an answer to the last one of its calls."""
    begins = [at for word in (_THOUGHT, _ANSWER) if (at := text.find(word)) >= 0]
    return text[min(begins) : max(text.rfind(last), max(begins))] if begins else ""


def _text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}
