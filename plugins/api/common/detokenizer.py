"""A stream of tokens as a stream of text."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from maxserve.interfaces.tokenizer import Tokenizer

_CONTEXT = 8  # tokens before a piece that are decoded with it: decoders look back at most a few
_PROMPT_TAIL = 128  # tokens of a prompt that are looked at for context
_BYTE_RUN = 64  # byte tokens in a row that may wait for their end, after that they are shown as they are
_BROKEN = "\ufffd"
_BROKEN_WAIT = 8  # tokens a text ending in U+FFFD may wait for the rest of a character


class Detokenizer:
    """Text of a growing sequence, piece by piece.

    The pieces, with the one of `finish`, make up the text that decoding everything at once gives. With `prompt`, the
    text is what the tokens add to the prompt's text: a word's leading space is part of it.
    `visible` are special tokens that are shown all the same. One thread at a time.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        skip_special_tokens: bool = True,
        prompt: Sequence[int] = (),
        visible: Iterable[str] = (),
    ) -> None:
        shown = {tokenizer.token_id(token) for token in visible}
        self._skipped = tokenizer.special_ids - shown if skip_special_tokens else frozenset[int]()
        before = self._unskipped(prompt[-_PROMPT_TAIL:])
        self._pieces: _Pieces = _JoinedBytes(tokenizer, before) if tokenizer.joins_bytes else _Window(tokenizer, before)

    def add(self, ids: Sequence[int]) -> str:
        """The text that is certain after `ids`; never half a character, possibly nothing yet."""
        return self._pieces.add(self._unskipped(ids))

    def finish(self) -> str:
        """What is still held back; broken UTF-8 shows as U+FFFD."""
        return self._pieces.finish()

    def _unskipped(self, ids: Sequence[int]) -> Sequence[int]:
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
