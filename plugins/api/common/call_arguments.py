"""The arguments of a call on their way to the client."""

from __future__ import annotations

import json
import re

from maxserve.plugins.api.common.argument_types import ArgumentType
from maxserve.plugins.api.common.json_text import JsonText

_INNER = re.compile(r'(?:[^"\\]|\\.)*')


class CallArguments:
    """Makes the JSON text of an object of what a parser tells of a call, a fragment at a time.

    What it tells may be a JSON text that holds such an object, be not quite JSON, or end too early: `close` gives what
    is missing then, {} where nothing came that could be an object.
    """

    def __init__(self, kind: ArgumentType | None = None) -> None:
        self._object = JsonText(kind)
        self._string: _StringText | None = None
        self._begun = False
        self._ended = False  # or cannot be understood any further

    def feed(self, text: str) -> str:
        """What is certain of the arguments with this fragment and was not given before."""
        if not self._begun and self._string is None:
            text = text.lstrip()
            if text.startswith(('"', "'")):
                self._string = _StringText(text[0])
                text = text[1:]
        return self._follow(text if self._string is None else self._string.feed(text))

    def close(self) -> str:
        """What completes the arguments."""
        if not self._begun:
            self._begun = self._ended = True
            return "{}"
        self._ended = True
        return self._object.close()

    def _follow(self, text: str) -> str:
        text = text if self._begun else text.lstrip()
        if self._ended or not text:
            return ""
        self._begun = self._begun or text[0] == "{"
        self._ended = not self._begun or not self._object.feed(text)
        return self._object.take()


class _StringText:
    """The text that a JSON string holds, as it comes. JsonText writes escapes and surrogate pairs as one piece."""

    def __init__(self, quote: str) -> None:
        self._json = JsonText()
        self._json.feed(f"[{quote}")
        self._json.take()

    def feed(self, text: str) -> str:
        if not self._json.in_string:
            return ""
        self._json.feed(text)
        inner = _INNER.match(self._json.take())
        return str(json.loads(f'"{inner[0]}"')) if inner else ""
