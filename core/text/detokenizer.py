"""A stream of tokens as a stream of text, with its stop strings."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from maxserve.core.text.tokenizer import Tokenizer

_CONTEXT = 8  # tokens before a piece that are decoded with it: decoders look back at most a few
_PROMPT_TAIL = 128  # tokens of a prompt that are looked at for context
_BYTE_RUN = 64  # byte tokens in a row that may wait for their end, after that they are shown as they are
_BROKEN = "\ufffd"
_BROKEN_WAIT = 8  # tokens a text ending in U+FFFD may wait for the rest of a character


class Detokenizer:
    """Text of a growing sequence, piece by piece.

    The pieces, with the one of `finish`, make up the text that decoding everything at once gives. With `prompt`, the
    text is what the tokens add to the prompt's text: a word's leading space is kept.
    `kept` are special tokens that are shown all the same. One thread at a time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        prompt: Sequence[int] = (),
        kept: Iterable[str] = (),
    ) -> None:
        shown = {tokenizer.token_id(token) for token in kept}
        self._skipped = tokenizer.special_ids - shown if skip_special_tokens else frozenset[int]()
        before = self._kept(prompt[-_PROMPT_TAIL:])
        self._pieces: _Pieces = _JoinedBytes(tokenizer, before) if tokenizer.joins_bytes else _Window(tokenizer, before)

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain after `ids`; never half a character, possibly nothing yet."""
        return self._pieces.add(self._kept(ids))

    def finish(self) -> str:
        """What is still held back; broken UTF-8 shows as U+FFFD."""
        return self._pieces.finish()

    def _kept(self, ids: Sequence[int]) -> Sequence[int]:
        if self._skipped.isdisjoint(ids):
            return ids
        return [token_id for token_id in ids if token_id not in self._skipped]


class _Pieces(Protocol):
    def add(self, ids: Sequence[int]) -> str: ...
    def finish(self) -> str: ...


class _JoinedBytes:
    """For byte-level vocabularies: the tokens' bytes through an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._bytes_of = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._within = False  # a character
        self.add(before[-_CONTEXT:])  # a character may have begun in the prompt

    def add(self, ids: Sequence[int]) -> str:
        data = b"".join([self._bytes_of(token_id) or b"" for token_id in ids])
        if not self._within:  # then most tokens are whole characters, which is quick to find out
            try:
                return data.decode()
            except UnicodeDecodeError:
                pass
        text = self._decoder.decode(data)
        self._within = bool(self._decoder.getstate()[0])
        return text

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class _Window:
    """For decoders that look at neighbours: decodes a few tokens of context with each new piece.

    `_ids` is context (shown already, `_shown` long as text) followed by tokens whose text waits. Runs of byte tokens
    wait for their end, because a decoder shows a whole run differently when any byte of it is broken.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(before)
        self._context = len(self._ids)
        self._shown = 0
        self._slide(self._context)

    def add(self, ids: Sequence[int]) -> str:
        self._ids.extend(token_id for token_id in ids if self._tokenizer.token(token_id))
        end = self._settled()
        text = self._text(self._ids[:end]) if end > self._context else ""
        if text.endswith(_BROKEN) and end - self._context <= _BROKEN_WAIT:
            return ""
        piece = text[self._shown :]
        if piece:
            self._slide(end)
        return piece

    def finish(self) -> str:
        return self._text(self._ids)[self._shown :]

    def _settled(self) -> int:
        """How many of the ids may be shown: all but a run of byte tokens at the end, unless it is too long."""
        end = len(self._ids)
        while end > self._context and self._tokenizer.is_byte(self._ids[end - 1]):
            end -= 1
        return self._whole_characters(end) if len(self._ids) - end > _BYTE_RUN else end

    def _whole_characters(self, start: int) -> int:
        """Where the last whole character of the byte tokens from `start` on ends."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        end = start
        for i in range(start, len(self._ids)):
            decoder.decode(self._byte(i))
            if not decoder.getstate()[0]:
                end = i + 1
        return end

    def _slide(self, end: int) -> None:
        """Makes the last few of the first `end` ids the context of what follows."""
        start = max(0, end - _CONTEXT)
        while start > 0 and self._tokenizer.is_byte(self._ids[start]) and not self._may_cut(start, end):
            start -= 1
        self._ids = self._ids[start:]
        self._context = end - start
        self._shown = len(self._text(self._ids[: self._context]))

    def _may_cut(self, start: int, end: int) -> bool:
        """A run of byte tokens is context as a whole, unless it is long: then from the start of a character."""
        length = end - start
        return length > 2 * _BYTE_RUN or (length > _BYTE_RUN and self._byte(start)[0] & 0xC0 != 0x80)

    def _byte(self, index: int) -> bytes:
        return self._tokenizer.token_bytes(self._ids[index]) or b""

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)


class StopStrings:
    """Text up to the first stop string.

    Text that may be the start of a stop string is held back. The stop that starts first wins, of two that start
    together the shorter; how the text is cut into pieces makes no difference. `include`: the stop is part of the text.
    """

    def __init__(self, stops: Iterable[str], *, include: bool = False) -> None:
        self._matchers = [_Matcher(stop) for stop in dict.fromkeys(stops)]
        self._first = frozenset(matcher.stop[0] for matcher in self._matchers)
        self._include = include
        self._held = ""
        self._seen = 0  # characters looked at so far
        self._shown = 0  # characters let through so far: where `_held` starts
        self._hit: tuple[int, str] | None = None  # start and text of a complete stop
        self.matched: str | None = None

    def feed(self, text: str) -> str:
        """What of the text so far can be shown now and was not shown before; nothing after a match."""
        if self.matched is not None:
            return ""
        if not self._held and self._first.isdisjoint(text):
            self._seen = self._shown = self._seen + len(text)
            return text
        self._held += text
        if any(self._step(char) for char in text):
            return self._end()
        return self._release(self._pending())

    def flush(self) -> str:
        """The text held back, when no more will come."""
        if self._hit is not None and self.matched is None:
            return self._end()
        return self._release(self._shown + len(self._held))

    def _step(self, char: str) -> bool:
        """Takes one character; True when a stop is certain."""
        self._seen += 1
        for matcher in self._matchers:
            if matcher.step(char):
                found = (self._seen - len(matcher.stop), matcher.stop)
                self._hit = min(self._hit or found, found, key=lambda hit: (hit[0], len(hit[1])))
        return self._hit is not None and self._pending() >= self._hit[0]

    def _pending(self) -> int:
        """Where the earliest stop that may still be completed starts."""
        return self._seen - max(matcher.matched for matcher in self._matchers)

    def _end(self) -> str:
        assert self._hit is not None
        start, self.matched = self._hit
        text = self._release(start) + (self.matched if self._include else "")
        self._held = ""
        return text

    def _release(self, position: int) -> str:
        length = position - self._shown
        text, self._held = self._held[:length], self._held[length:]
        self._shown = position
        return text


class _Matcher:
    """Follows how much of one stop string the text ends with (Knuth–Morris–Pratt): constant work per character."""

    def __init__(self, stop: str) -> None:
        if not stop:
            raise ValueError("a stop string must not be empty")
        self.stop = stop
        self.matched = 0
        self._back = _fallbacks(stop)

    def step(self, char: str) -> bool:
        """Takes one character; True when the stop is complete."""
        if self.matched == len(self.stop):
            self.matched = self._back[-1]
        while self.matched and self.stop[self.matched] != char:
            self.matched = self._back[self.matched - 1]
        self.matched += self.stop[self.matched] == char
        return self.matched == len(self.stop)


def _fallbacks(stop: str) -> list[int]:
    """For each prefix of `stop`, the length of its longest proper suffix that is a prefix of `stop` too."""
    back = [0] * len(stop)
    length = 0
    for i in range(1, len(stop)):
        while length and stop[i] != stop[length]:
            length = back[length - 1]
        length += stop[i] == stop[length]
        back[i] = length
    return back
