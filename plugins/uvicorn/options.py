"""Options of the HTTP server: what a connection may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from maxserve.interfaces.config import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What a connection may take; seconds, with 0 for no limit."""

    max_connections: Annotated[
        int,
        Option(server=True),
        Field(
            description="Most open connections; one more takes the place of the one that has been idle for longest.",
            ge=1,
        ),
    ] = 4096
    max_header_bytes: Annotated[
        int,
        Option(server=True),
        Field(description="Longest header of a request; a longer one is answered 431, or 414.", ge=1024),
    ] = 64 * 1024
    header_timeout: Annotated[
        float,
        Option(server=True),
        Field(description="Seconds within which the header of a request must come; 0 for no limit.", ge=0),
    ] = 20.0
    body_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds over which the rate of a body that is being received is measured; 0 for no limit.",
            ge=0,
        ),
    ] = 20.0
    min_body_rate: Annotated[
        int,
        Option(server=True),
        Field(description="Bytes per second in which a body must come at least, else it is answered 408.", ge=1),
    ] = 1024
    keep_alive_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds for which a connection without a request stays open; longer than those of load "
            "balancers, which would reuse it just when it closes.",
            gt=0,
        ),
    ] = 75.0
    send_timeout: Annotated[
        float,
        Option(server=True),
        Field(
            description="Seconds after which a client that does not read its answer is cut off; 0 for no limit. A "
            "stream that is read may take as long as it likes.",
            ge=0,
        ),
    ] = 120.0
