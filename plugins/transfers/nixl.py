"""The transport `nixl`: pieces in registered memory, read over UCX (RDMA, NVLink, or shared memory)."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import count
from typing import Any
from uuid import uuid4

import msgspec

from maxserve.interfaces.errors import SettingsError
from maxserve.interfaces.transport import TransportContext

MISSING = (
    "--transfers.transport nixl needs NIXL, which is not installed: `pip install --no-deps nixl-cu13` "
    "(`pip install nixl` would bring another release of torch along)"
)


class Where(msgspec.Struct, frozen=True, array_like=True):
    """A piece in the memory of the other side."""

    address: int
    size: int


class NixlTransport:
    """One agent; offers are buffers that are registered as long as they are offered."""

    wakes = False

    def __init__(self, context: TransportContext) -> None:
        try:
            api: Any = importlib.import_module("nixl._api")
        except ImportError as error:
            raise SettingsError(MISSING) from error
        self._agent = api.nixl_agent(uuid4().hex, api.nixl_agent_config(backends=["UCX"]))
        self._offers: dict[bytes, tuple[Any, Any]] = {}
        self._pulls: dict[int, tuple[Any, Any, Any]] = {}
        self._numbers = count()

    @property
    def peer(self) -> bytes:
        return bytes(self._agent.get_agent_metadata())

    def offer(self, data: bytes) -> bytes:
        buffer = _buffer(data)
        registered = self._agent.register_memory(buffer)
        place = msgspec.msgpack.encode((Where(buffer.data_ptr(), len(data)), self.peer))
        self._offers[place] = buffer, registered
        return place

    def withdraw(self, where: bytes) -> None:
        if (offered := self._offers.pop(where, None)) is not None:
            self._agent.deregister_memory(offered[1])

    def pull(self, host: str, peer: bytes, where: bytes) -> int:
        place, metadata = msgspec.msgpack.decode(where, type=tuple[Where, bytes])
        name = self._agent.add_remote_agent(metadata)  # again for each piece: its memory was registered meanwhile
        buffer = _buffer(bytes(place.size))
        registered = self._agent.register_memory(buffer)
        remote = self._agent.get_xfer_descs([(place.address, place.size, 0)], "DRAM")
        handle = self._agent.initialize_xfer("READ", self._agent.get_xfer_descs(buffer), remote, name)
        number = next(self._numbers)
        self._agent.transfer(handle)
        self._pulls[number] = handle, buffer, registered
        return number

    def poll(self) -> Sequence[tuple[int, bytes | None]]:
        done: list[tuple[int, bytes | None]] = []
        for number, (handle, buffer, registered) in list(self._pulls.items()):
            state = self._agent.check_xfer_state(handle)
            if state not in ("DONE", "ERR"):
                continue
            done.append((number, buffer.numpy().tobytes() if state == "DONE" else None))
            self._agent.release_xfer_handle(handle)
            self._agent.deregister_memory(registered)
            del self._pulls[number]
        return done

    def close(self) -> None:
        for where in list(self._offers):
            self.withdraw(where)


def _buffer(data: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(data), dtype=torch.uint8)
