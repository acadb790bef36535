"""The bytes of each token, as its decoder writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import tokenizers

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """The bytes that a tokenizer's decoder makes of one token.

    `joined`: a text is exactly its tokens' bytes, one after another, read as UTF-8 (byte-level vocabularies).
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        steps = list(_steps(tokenizer))
        kinds = {step["type"] for step in steps}
        self.joined = kinds == {"ByteLevel"} or kinds == {"ByteLevel", "Fuse"}
        self._fallback = "ByteFallback" in kinds
        self._space = next((mark for step in steps if (mark := _space_mark(step))), None)
        self._alphabet = _byte_level_alphabet() if self.joined else {}

    def is_byte(self, token: str) -> bool:
        """Whether `token` is the spelling of a single byte, <0x0A>, that the decoder joins with its neighbours."""
        return self._fallback and _BYTE_TOKEN.fullmatch(token) is not None

    def of(self, token: str) -> bytes | None:
        """The bytes of `token` inside a text; None when they depend on its neighbours in a way not known here."""
        if self.joined:
            return self._from_alphabet(token)
        if self._fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        return None if self._space is None else token.replace(self._space, " ").encode()

    def _from_alphabet(self, token: str) -> bytes:
        try:
            return bytes([self._alphabet[char] for char in token])
        except KeyError:  # an added token is written as it is when a character of it is no byte's spelling
            return token.encode()


def _steps(tokenizer: tokenizers.Tokenizer) -> Iterator[dict[str, Any]]:
    if tokenizer.decoder is None:
        return
    # The decoder's state is a few lines of JSON, however large the vocabulary.
    pending = [json.loads(tokenizer.decoder.__getstate__())]
    while pending:
        step = pending.pop(0)
        if step["type"] == "Sequence":
            pending = step["decoders"] + pending
        else:
            yield step


def _space_mark(step: dict[str, Any]) -> str | None:
    if step["type"] == "Metaspace":
        return str(step["replacement"])
    if step["type"] == "Replace" and step["content"] == " ":
        return step["pattern"].get("String")  # type: ignore[no-any-return]
    return None


def _byte_level_alphabet() -> dict[str, int]:
    """Byte by character: printable Latin-1 stands for itself, the other bytes for the characters from 256 on."""
    themselves = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in themselves]
    return {chr(byte): byte for byte in themselves} | {chr(256 + i): byte for i, byte in enumerate(others)}
