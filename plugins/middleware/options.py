"""Options of who may use the server, and of bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True)
class AccessOptions:
    """Who may use the server."""

    api_key: Annotated[
        tuple[str, ...],
        Option(metavar="KEY", server=True, secret=True, common=True),
        Field(
            description="Answer only requests that bring this key as `Authorization: Bearer KEY` or `x-api-key: KEY`; "
            "probes of health need none. Others on this machine can read what is typed: prefer MAX_SERVE_API_KEY.",
        ),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        Option(metavar="ORIGIN", server=True),
        Field(
            description="Web site, such as https://chat.example, whose pages may use this server (CORS); "
            "* lets all of them.",
        ),
    ] = ()
    allowed_hosts: Annotated[
        tuple[str, ...],
        Option(metavar="HOST", server=True),
        Field(
            description="Name by which a server without an API key may be asked for, besides addresses, localhost and "
            "names that are not in the public DNS: that of a proxy, say. *.example.org means all below it, * any.",
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """How large bodies may be."""

    max_request_bytes: Annotated[
        int,
        Option(server=True),
        Field(description="Largest body of a request; a larger one is answered 413.", ge=1024),
    ] = 64 * 1024 * 1024
