"""What the two sides of a transfer say to each other: msgpack, DEALER of who decodes, ROUTER of who prefills."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

PROTOCOL = 1

TokenId = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag on the wire."""


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What must be equal on both sides for the one's keys and values to be the other's: no sizes of pages."""

    protocol: int
    model: str
    layout: str
    transport: str

    def unlike(self, other: Identity) -> str | None:
        """In words, what of `other` is different; None where nothing is."""
        if self.protocol != other.protocol:
            return f"it speaks protocol {other.protocol} of transfers, and this server {self.protocol}"
        if self.model != other.model:
            return f"it serves another model, or other weights ({other.model}, here {self.model})"
        if self.layout != other.layout:
            return f"its cache stores other things of a token ({other.layout}; here {self.layout})"
        if self.transport != other.transport:
            return f"it has --transfers.transport {other.transport}, and this server {self.transport}"
        return None


# --- from who decodes -----------------------------------------------------------------------------------------


class Meet(Message, frozen=True, kw_only=True):
    """The first message over a connection."""

    identity: Identity


class Prefill(Message, frozen=True, kw_only=True):
    """Have this prompt computed, as the prefix under the salt and the adapter; `adapter_source` is where that is from.

    Without a `prompt` it is one that was asked for over HTTP, whose `digest` must be that of the prompt. `have` tokens
    are known already.
    """

    id: str
    prompt: tuple[TokenId, ...] = ()
    digest: bytes = b""
    have: int = 0
    salt: str = ""
    user: str = ""
    priority: int = 0
    adapter: str = ""
    adapter_source: str = ""


class Pull(Message, frozen=True, kw_only=True):
    """Offer keys and values of tokens that are ready."""

    id: str
    start: int
    stop: int


class Taken(Message, frozen=True, kw_only=True):
    """All that was wanted is there; `start` names a piece of it, None the whole."""

    id: str
    start: int | None = None


class Cancel(Message, frozen=True, kw_only=True):
    """It is wanted no longer."""

    id: str


class Beat(Message, frozen=True, kw_only=True):
    """These are wanted still."""

    ids: tuple[str, ...]


FromDecode: TypeAlias = Meet | Prefill | Pull | Taken | Cancel | Beat


# --- from who prefills ----------------------------------------------------------------------------------------


class Met(Message, frozen=True, kw_only=True):
    """The answer to Meet; `peer` is what the transport wants to know, `lease` the seconds that a beat is good for."""

    identity: Identity
    page_size: int
    peer: bytes
    lease: float


class Ready(Message, frozen=True, kw_only=True):
    """So many tokens can be pulled; where `final`, there will be no more."""

    id: str
    tokens: int
    final: bool


class Piece(Message, frozen=True, kw_only=True):
    """The answer to Pull: where the transport finds it."""

    id: str
    start: int
    stop: int
    where: bytes


class Refused(Message, frozen=True, kw_only=True):
    """It cannot be had, and why."""

    id: str
    why: str


class Lost(Message, frozen=True, kw_only=True):
    """The answer to Beat: those of them that are not known here."""

    ids: tuple[str, ...]


FromPrefill: TypeAlias = Met | Ready | Piece | Refused | Lost

encode = msgspec.msgpack.Encoder().encode
decode_asked = msgspec.msgpack.Decoder(FromDecode).decode
decode_told = msgspec.msgpack.Decoder(FromPrefill).decode
