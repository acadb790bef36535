"""Options of where processes talk, and of servers that are parts of a larger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.config import Choice
from maxserve.interfaces.config import Option, UnsupportedValues

ROLES = Choice("PipelineRole", ("prefill_and_decode", "prefill_only", "decode_only"))


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
class HeadlessOptions:
    """Workers that another server's API process uses."""

    headless: Annotated[
        bool, Option(server=True, negatable=False), Field(description="Start the worker without HTTP.")
    ] = False


@dataclass(frozen=True, slots=True)
class SharingOptions:
    """What is shared out among devices and servers."""

    ep_size: Annotated[
        int,
        UnsupportedValues(refused=lambda size: size != 1, what="with spread experts", instead="use 1"),
        Field(description="Devices over which experts are spread; 1 is not spread.", ge=1),
    ] = 1
    pipeline_role: Annotated[
        str,
        ROLES,
        UnsupportedValues(
            refused=lambda role: role != "prefill_and_decode",
            what="with a role of its own",
            instead="use PrefillAndDecode",
        ),
        Field(description="Whether this server runs prompts, answers, or both."),
    ] = "prefill_and_decode"
