"""The port of the server. Asked, and the port taken, before any model is loaded."""

from __future__ import annotations

import errno
import ipaddress
import socket
from typing import Any

from maxserve.core.interfaces.errors import SettingsError

BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket at `host`; port 0 takes a free one. SettingsError says why it cannot be had.

    It listens from the start: a socket that is merely bound does not keep others from the port.
    """
    family, address = _resolve(host, port)
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise SettingsError(_explain(error, host, port)) from error
    return listening


def url(listening: socket.socket) -> str:
    """Where the socket is reached from this machine."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_local(listening: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
    """The first address of a host name, IPv4 before IPv6: that is where clients of a name look first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise SettingsError(f"--host {host!r} is not a name or address of this machine ({error.strerror})") from error
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _explain(error: OSError, host: str, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"{host}:{port} is in use by another program; choose another with --port, or --port 0 for a free one"
        case errno.EACCES:
            return f"{host}:{port} needs privileges; choose a port above 1023 with --port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; choose another with --host"
    return f"cannot listen on {host}:{port}: {error.strerror}"
