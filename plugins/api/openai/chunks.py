"""What bytes does a streamed answer consist of?"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from maxserve.plugins.api.common.event_stream import event

json_of = msgspec.json.encode


def joined(one: bytes, other: bytes) -> bytes:
    """The JSON of an object with the fields of two, neither of which is checked for those of the other."""
    return one if other == b"{}" else one[:-1] + b"," + other[1:]


class Chunks:
    """Builds the events of one answer. All but the choices is encoded once; `first` are fields of the first event."""

    def __init__(
        self, head: Mapping[str, Any], *, with_usage: bool, first: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        self._head = json_of(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' if with_usage else b"]}"
        self._first = b"," + json_of(first)[1:-1] if first else b""

    def choice(self, choice: bytes, usage: Mapping[str, Any] | None = None) -> bytes:
        """An event with a choice, and with what the answer has cost so far where that is wanted."""
        return self._event(choice, self._tail if usage is None else b'],"usage":' + json_of(usage) + b"}")

    def usage(self, usage: Mapping[str, Any]) -> bytes:
        """The event after the last choice: none of them, and what the answer cost."""
        return self._event(b"", b'],"usage":' + json_of(usage) + b"}")

    def _event(self, choices: bytes, tail: bytes) -> bytes:
        if self._first:
            tail = tail[:-1] + self._first + b"}"
            self._first = b""
        return event(self._head + choices + tail)
