"""Options of where processes talk, and of servers that are parts of a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option, UnsupportedValues


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """Where the processes of a server talk."""

    zmq_endpoint_base: Annotated[
        str | None,
        Option(metavar="URL", server=True),
        Field(
            description="Beginning of the addresses through which the processes talk: ipc://PATH or tcp://HOST:PORT; "
            "unset, a fresh private folder. inproc://NAME is refused, as it cannot join two processes."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class SharingOptions:
    """What is shared out among devices and servers."""

    ep_size: Annotated[
        int,
        UnsupportedValues(refused=lambda size: size != 1, what="with spread experts", instead="use 1"),
        Field(description="Devices over which experts are spread; 1 is not spread.", ge=1),
    ] = 1
