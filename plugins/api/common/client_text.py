"""The client's text in a prompt: special tokens that it spells out are text, and only the template's own count.

While a conversation is rendered, one character of each special token that the client wrote is another one, that occurs
nowhere: so the text comes out as ever, in whatever way the template cuts and joins it, and tells afterwards which
tokens are the client's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from maxserve.interfaces.errors import RequestError
from maxserve.plugins.api.common.literal_encoding import PromptEncoder, PromptText
from maxserve.plugins.api.common.template_sandbox import stand_ins

Message = Mapping[str, Any]
Tools = Sequence[Any] | None

_TRUSTED = frozenset({"system", "developer", "assistant"})  # whose text stays as it is
_NAMES = frozenset({"role", "type"})  # what templates compare, and no text
_ESCAPED = "<>&'\""  # characters that filters may write otherwise
_BLANK = "\ue000"
# Tetragrams, musical signs of Byzantium and dominoes: Python's repr prints them, and no filter changes them. Then
# private characters, for conversations that hold all of those.
_SYMBOLS = (*range(0x1D300, 0x1D357), *range(0x1D000, 0x1D0F6), *range(0x1F030, 0x1F094))
_STAND_INS = (*_SYMBOLS, *range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE), *range(0x100000, 0x10FFFE))


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """What a template is given of a client: its messages, tools and documents."""

    messages: Sequence[Message]
    tools: Tools = None
    documents: Any = None


Render = Callable[[Conversation], str]


class ClientText:
    """Renders the conversations of clients for one tokenizer. Safe from several threads at once."""

    def __init__(self, prompts: PromptEncoder) -> None:
        self._prompts = prompts
        texts = [text for text in prompts.special_texts if not text.isspace()]
        self._prefixes = {text[:end] for text in texts for end in range(1, len(text))}
        self._suffixes = {text[start:] for text in texts for start in range(1, len(text))}
        self._longest = max(map(len, texts), default=0)

    def render(self, render: Render, conversation: Conversation, *others: Any) -> PromptText:
        """What `render` makes of a conversation. `others` hold texts that may come out, too: the template's own."""
        marks = _Marks(self._literal)
        marks.look(client_texts(conversation))
        if not marks.characters:
            return PromptText(render(conversation))
        marks.choose(json.dumps([_fields(conversation), others], ensure_ascii=False, default=str))
        with stand_ins(marks.stand_ins):
            text = render(_marked(conversation, marks))
        return marks.undone(text)

    def _literal(self, text: str) -> set[int]:
        """Indices of one character of each special token in `text`, and of what could become one beside other text."""
        literal: set[int] = set()
        rest, characters = text, list[str]()
        while spans := self._prompts.special_spans(rest):
            found = {start + _key(text[start:end]) for start, end in spans if not text[start:end].isspace()} - literal
            if not found:
                break
            literal |= found
            characters = characters or list(text)
            for at in found:
                characters[at] = _BLANK
            rest = "".join(characters)
        return literal | set(self._ends(text))

    def _ends(self, text: str) -> Iterator[int]:
        """Characters of a special token that begins at the end of `text`, or ends at its beginning."""
        first, last = len(text) - len(text.lstrip()), len(text.rstrip())
        for length in range(1, min(self._longest, last - first + 1)):
            if (end := text[last - length : last]) in self._prefixes:
                yield last - length + _key(end)
            if (start := text[first : first + length]) in self._suffixes:
                yield first + _key(start)


class _Marks:
    """Stand-ins for characters of one conversation."""

    def __init__(self, literal: Callable[[str], set[int]]) -> None:
        self._literal = literal
        self._found: dict[str, set[int]] = {}
        self.characters: set[str] = set()
        self.stand_ins: dict[str, str] = {}  # the character by its stand-in

    def look(self, texts: Iterable[str]) -> None:
        """Finds out which characters need one."""
        for text in texts:
            if text not in self._found and (found := self._literal(text)):
                self._found[text] = found
                self.characters |= {text[at] for at in found}

    def choose(self, text: str) -> None:
        """Takes characters that do not occur in `text`."""
        used = set(text)
        free = (char for char in map(chr, _STAND_INS) if char not in used)
        chosen = dict(zip(free, sorted(self.characters), strict=False))
        if len(chosen) < len(self.characters):
            raise RequestError(
                "the conversation uses every character that could mark special tokens in it", param="messages"
            )
        self.stand_ins = chosen

    def marked(self, value: Any) -> Any:
        """`value` with stand-ins in all of its texts."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {self._text(key): v if key in _NAMES else self.marked(v) for key, v in value.items()}
        return [self.marked(item) for item in value] if isinstance(value, list | tuple) else value

    def _text(self, text: str) -> str:
        if text not in self._found:
            return text
        by_character = {char: stand_in for stand_in, char in self.stand_ins.items()}
        characters = list(text)
        for at in self._found[text]:
            characters[at] = by_character[characters[at]]
        return "".join(characters)

    def undone(self, text: str) -> PromptText:
        """The text as it would have been, and where the stand-ins were."""
        found = re.finditer(f"[{''.join(self.stand_ins)}]", text)
        literal = tuple(match.start() for match in found)
        return PromptText(text.translate({ord(s): char for s, char in self.stand_ins.items()}), literal)


def _fields(conversation: Conversation) -> list[Any]:
    return [list(conversation.messages), conversation.tools, conversation.documents]


def client_texts(conversation: Conversation) -> Iterator[str]:
    """The texts that are no tokens: what the user and the tools say, and what is written of tools and documents."""
    for message in conversation.messages:
        if message.get("role") not in _TRUSTED:
            yield from _texts(message)
    yield from _texts([conversation.tools, conversation.documents])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (key, *(() if key in _NAMES else _texts(item)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _marked(conversation: Conversation, marks: _Marks) -> Conversation:
    return Conversation(
        messages=[m if m.get("role") in _TRUSTED else marks.marked(m) for m in conversation.messages],
        tools=marks.marked(conversation.tools),
        documents=marks.marked(conversation.documents),
    )


@lru_cache(1 << 12)
def _key(token: str) -> int:
    """The index of the character that a template is least likely to look at or to write otherwise."""
    return min(range(len(token)), key=lambda at: (_rank(token[at]), at in (0, len(token) - 1), at))


def _rank(char: str) -> int:
    if char.isspace():
        return 3
    if char.isalnum():
        return 2
    return 1 if char in _ESCAPED else 0
