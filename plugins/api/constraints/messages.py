"""Messages between the API process and the process that tries constraints out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeAlias

import msgspec

from maxserve.interfaces.errors import GrammarUnsupported

HEADER = struct.Struct("!I")


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag on the wire."""


class Begin(Message, frozen=True, kw_only=True):
    """The first message: what compilers are built of.

    `plugins` are those of the ServerContext; the vocabulary and what follows it are those of GrammarContext;
    `preferred` is the back end whose compiler is built at once.
    """

    plugins: bytes
    search_path: tuple[str, ...]
    vocabulary: tuple[bytes, ...]
    eos_token_ids: tuple[int, ...]
    vocab_size: int
    tokenizer_path: str
    preferred: str | None = None


class Try(Message, frozen=True, kw_only=True):
    """A constraint to be compiled, which is called `id` from then on."""

    id: int
    backend: str
    kind: str
    text: str


class Signal(Message, frozen=True, kw_only=True):
    """Sends a signal to the process of a constraint; it is as nothing when that has ended."""

    id: int
    signal: int


class Outcome(Message, frozen=True, kw_only=True):
    """What became of a constraint: a form of it that `compile` takes, or why there is none.

    `seconds` of processor time were spent on it.
    """

    id: int = 0
    kind: str = ""
    text: str = ""
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0
    refused: str | None = None
    path: str = ""
    invalid: bool = False

    @property
    def refusal(self) -> GrammarUnsupported | None:
        if self.refused is None:
            return None
        return GrammarUnsupported(self.refused, path=self.path, invalid=self.invalid)


def refusal(error: GrammarUnsupported) -> Outcome:
    """The outcome of a constraint that was refused."""
    return Outcome(refused=error.message, path=error.path, invalid=error.invalid)


ToTrials: TypeAlias = Begin | Try | Signal


def packed(message: Message) -> bytes:
    """A message behind its length."""
    body = msgspec.msgpack.encode(message)
    return HEADER.pack(len(body)) + body


class Frames:
    """Cuts what comes through a pipe into the bodies of messages."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._held += data
        while len(self._held) >= HEADER.size:
            end = HEADER.size + HEADER.unpack_from(self._held)[0]
            if len(self._held) < end:
                return
            body = bytes(self._held[HEADER.size : end])
            del self._held[:end]
            yield body
