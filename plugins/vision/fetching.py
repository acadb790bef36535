"""Fetching of images by URL, so that no client can make the server talk to whom it should not.

Each hop, redirects included, must be of an allowed host, and all addresses of its name must be public; the connection
goes to an address that was checked, not to what the name may mean a moment later. One deadline bounds all of it: names,
connections, certificates, every byte that is sent or read.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import SplitResult, urljoin, urlsplit

from maxserve.plugins.vision.addresses import public
from maxserve.plugins.vision.limits import PORTS, ImageLimits
from maxserve.plugins.vision.resolving import Location, addresses_of

MOST_REDIRECTS = 3
PIECE = 64 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "maxserve"}


class Deadline:
    """The moment at which a fetch must be done."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self, share: int = 1) -> float:
        """Seconds until then, of which one of `share` parts may be taken; ValueError when there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise ValueError("it takes longer than an image may (--image-timeout)")
        return left / share


def fetch(url: str, limits: ImageLimits, deadline: Deadline | None = None) -> bytes:
    """The body of an answer to GET; ValueError when it cannot be had, or may not.

    The time that an image may take begins now unless a `deadline` says that it began before.
    """
    deadline = deadline or Deadline(limits.seconds)
    for _ in range(MOST_REDIRECTS + 1):
        found = _hop(url, limits, deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise ValueError(f"it redirects more than {MOST_REDIRECTS} times")


def _hop(url: str, limits: ImageLimits, deadline: Deadline) -> bytes | str:
    """The body, or where to go instead."""
    parts, host, port = _target(url, limits)
    connection = http.client.HTTPConnection(host, port)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    line = _connected(parts.scheme, host, _addresses(host, port, limits, deadline), deadline)
    try:
        connection.sock = cast("socket.socket", _Line(line, deadline))
        connection.request("GET", path, headers=_HEADERS)
        answer = connection.getresponse()
        if answer.status in _REDIRECTS and (location := answer.getheader("Location")):
            return location
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}")
        return _body(answer, limits)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"it cannot be fetched: {_reason(error)}") from error
    finally:
        line.close()


class _Line:
    """What http.client needs of a socket, with every call over by the deadline. Others close the socket."""

    def __init__(self, line: socket.socket, deadline: Deadline) -> None:
        self._line, self._deadline = line, deadline

    def sendall(self, data: bytes) -> None:
        self._line.settimeout(self._deadline.left())
        self._line.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._line, self._deadline), PIECE)

    def close(self) -> None:
        pass


class _Incoming(io.RawIOBase):
    def __init__(self, line: socket.socket, deadline: Deadline) -> None:
        self._line, self._deadline = line, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._line.settimeout(self._deadline.left())
        return self._line.recv_into(buffer)


def _target(url: str, limits: ImageLimits) -> tuple[SplitResult, str, int]:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
        host = host if _literal(host) else host.encode("idna").decode()
    except ValueError as error:
        raise ValueError(f"the URL cannot be read: {error}") from error
    if parts.scheme not in PORTS or not host or parts.username is not None:
        raise ValueError("a URL like https://host/path, without a user, is expected")
    port = PORTS[parts.scheme] if port is None else port
    if not limits.allows(parts.scheme, host, port):
        raise ValueError(f"images are not fetched from {host}:{port} (--allowed-image-domains)")
    if any(ord(char) <= 32 or ord(char) > 126 for char in parts.path + parts.query):
        raise ValueError("the URL's path must be percent-encoded")
    return parts, host, port


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int, limits: ImageLimits, deadline: Deadline) -> Sequence[Location]:
    """Where the host is; ValueError when one of its addresses is not public, unless that is allowed."""
    try:
        found = addresses_of(host, port, deadline.left())
    except TimeoutError:
        raise ValueError(f"the name servers take too long to say where {host} is") from None
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the host {host} is not known") from error
    for _, location in found:
        if not limits.private and not public(ipaddress.ip_address(str(location[0]).partition("%")[0])):
            raise ValueError(f"{host} is not a public address (--allow-private-image-addresses allows it)")
    return found


def _connected(scheme: str, host: str, addresses: Sequence[Location], deadline: Deadline) -> socket.socket:
    """A connection to the first of the checked addresses that answers; a certificate must be that of the name."""
    error: OSError = OSError("it has no address")
    for index, (family, address) in enumerate(addresses):
        seconds = deadline.left(len(addresses) - index)  # so that one that never answers leaves time for the next
        line = socket.socket(family, socket.SOCK_STREAM)
        try:
            line.settimeout(seconds)
            line.connect(address)
            if scheme == "https":
                line = ssl.create_default_context().wrap_socket(line, server_hostname=host)
            return line
        except OSError as failed:
            line.close()
            error = failed
        except BaseException:
            line.close()
            raise
    raise ValueError(f"it cannot be fetched: {_reason(error)}") from error


def _body(answer: http.client.HTTPResponse, limits: ImageLimits) -> bytes:
    too_large = f"it is larger than the {limits.size} bytes that an image may have (--max-image-bytes)"
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise ValueError("the server sends it compressed, which was not asked for")
    if (answer.length or 0) > limits.size:
        raise ValueError(too_large)
    data = bytearray()
    while piece := answer.read1(PIECE):
        data += piece
        if len(data) > limits.size:
            raise ValueError(too_large)
    if answer.length:
        raise ValueError("the server broke off")
    return bytes(data)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it takes longer than an image may (--image-timeout)"
    return f"{type(error).__name__}" if not str(error) else str(error)
