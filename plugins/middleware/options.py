"""Options of who may use the server, and of bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from maxserve.interfaces.config import Option
from maxserve.interfaces.errors import SettingsError

if TYPE_CHECKING:
    from maxserve.config import Settings


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


def check_access(settings: Settings, access: AccessOptions) -> None:
    """SettingsError for keys that every request has, or that none can have."""
    if "access.api_key" in settings.chosen and not access.api_key:
        raise SettingsError("--api-key: no key is given, and the server would be open; give one, or leave it out")
    for number, key in enumerate(access.api_key, start=1):
        if not key.strip():
            raise SettingsError(
                f"--api-key: key {number} is empty, and would let any client in; is a variable not set?"
            )
        if not (key.isascii() and key.isprintable()) or key != key.strip():
            raise SettingsError(
                f"--api-key: key {number} has characters that no header can bring as they are; take letters, digits "
                "and signs of ASCII, without blanks at the ends"
            )


@dataclass(frozen=True, slots=True)
class BodyOptions:
    """How large bodies may be."""

    max_request_bytes: Annotated[
        int,
        Option(server=True),
        Field(description="Largest body of a request; a larger one is answered 413.", ge=1024),
    ] = 64 * 1024 * 1024
