"""Messages between the API process and a worker.

Everything travels as msgpack; nothing is ever pickled. The worker gets its start over its standard input, which
stays open as its lifeline; all else goes over the sockets of sockets.py.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from maxserve.core.interfaces.engine import ModelFiles, ModelInfo
from maxserve.core.interfaces.executor import Endpoints
from maxserve.core.interfaces.observer import StepStats
from maxserve.core.interfaces.request import AdapterChange, Encoded, EncodeRequest, Output, Request
from maxserve.core.registry.host import Manifest
from maxserve.core.runtime.ranks import Rank


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages; the class name is the tag on the wire."""


# --- to the worker --------------------------------------------------------------------------------------------


class Start(Message, frozen=True, kw_only=True):
    """All a worker needs to become one.

    `settings` is the JSON of Settings, `files` None if the worker is to look for the model itself, `engine` the
    "module:attribute" that builds the engine, None for the one of the model's task; `search_path` is where the parent
    imports from, `parent` its process id and `log_level` a level number of `logging`. `changes` are those of adapters
    that were made in a worker before this one. `rank` is None where it has the model to itself.
    """

    manifest: Manifest
    settings: str
    files: ModelFiles | None
    endpoints: Endpoints
    search_path: tuple[str, ...]
    parent: int
    log_level: int
    engine: str | None = None
    changes: tuple[AdapterChange, ...] = ()
    rank: Rank | None = None


class Submit(Message, frozen=True, kw_only=True):
    """Requests to be continued."""

    requests: tuple[Request, ...]


class Encode(Message, frozen=True, kw_only=True):
    """Texts to be encoded."""

    requests: tuple[EncodeRequest, ...]


class ChangeAdapters(Message, frozen=True, kw_only=True):
    """Adapters to be loaded, replaced or unloaded."""

    changes: tuple[AdapterChange, ...]


class Abort(Message, frozen=True, kw_only=True):
    """Requests that are no longer wanted."""

    ids: tuple[str, ...]


class ResetPrefixCache(Message, frozen=True, kw_only=True):
    """Forget unused prefixes."""


class Heard(Message, frozen=True, kw_only=True):
    """The API process knows what the worker that is being started reads now: see ReadsAdapter."""


class Shutdown(Message, frozen=True, kw_only=True):
    """End now, in good order. Draining is over by then: the API process does it."""


ToWorker: TypeAlias = Submit | Encode | ChangeAdapters | Abort | ResetPrefixCache | Heard | Shutdown


# --- from the worker ------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """The worker has its plugins, which must be those of the API process, and its socket."""

    pid: int
    fingerprint: str


class Phase(Message, frozen=True, kw_only=True):
    """What the start is at; `fraction` of it is done, if that is known."""

    text: str
    fraction: float | None = None


class ReadsAdapter(Message, frozen=True, kw_only=True):
    """The worker begins to read an adapter that the one before it had; "": it reads no more of them.

    It waits for Heard before it does: reading may end the process, and with it messages that are on their way.
    """

    name: str


class Ready(Message, frozen=True, kw_only=True):
    """The engine is warm: requests may come."""

    info: ModelInfo


class Failed(Message, frozen=True, kw_only=True):
    """The worker cannot go on and waits to be ended. `usage`: the operator asked for what cannot be done."""

    message: str
    kind: Literal["usage", "engine"]


class RequestRejected(msgspec.Struct, frozen=True, kw_only=True):
    """A request the engine would not take: the fields of RequestError."""

    id: str
    message: str
    param: str | None = None
    code: str | None = None
    status: int = 400


class Outputs(Message, frozen=True, kw_only=True):
    """What one step gave all requests together."""

    outputs: tuple[Output, ...]
    stats: StepStats
    rejected: tuple[RequestRejected, ...] = ()
    encoded: tuple[Encoded, ...] = ()


FromWorker: TypeAlias = Hello | Phase | ReadsAdapter | Ready | Failed | Outputs
