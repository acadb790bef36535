"""How is a picture fetched, so that a client cannot make the server talk to whom it should not?

Each hop, redirects included, must be of an allowed host, and all addresses of its name must be public; the connection
goes to an address that was checked, not to what the name may mean a moment later.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from urllib.parse import SplitResult, urljoin, urlsplit

from maxserve.core.images.limits import PORTS, ImageLimits

MOST_REDIRECTS = 3
PIECE = 64 * 1024

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "maxserve"}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def fetch(url: str, limits: ImageLimits) -> bytes:
    """The body of an answer to GET; ValueError when it cannot be had, or may not."""
    deadline = time.monotonic() + limits.seconds
    for _ in range(MOST_REDIRECTS + 1):
        found = _hop(url, limits, deadline)
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise ValueError(f"it redirects more than {MOST_REDIRECTS} times")


def public(address: Address) -> bool:
    """Whether the address is anybody's in the Internet, however it is written."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
    return address.is_global and not address.is_multicast


def _hop(url: str, limits: ImageLimits, deadline: float) -> bytes | str:
    """The body, or where to go instead."""
    parts, host, port = _target(url, limits)
    connection = _connection(parts.scheme, host, port, _addresses(host, port, limits), deadline)
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    try:
        connection.request("GET", path, headers=_HEADERS)
        answer = connection.getresponse()
        if answer.status in _REDIRECTS and (place := answer.getheader("Location")):
            return place
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}")
        return _body(connection, answer, limits, deadline)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"it cannot be fetched: {_reason(error)}") from error
    finally:
        connection.close()


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
        raise ValueError(f"pictures are not fetched from {host}:{port} (--allowed-image-domains)")
    if any(ord(char) <= 32 or ord(char) > 126 for char in parts.path + parts.query):
        raise ValueError("the URL's path must be percent-encoded")
    return parts, host, port


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _addresses(host: str, port: int, limits: ImageLimits) -> Sequence[tuple[int, str]]:
    """(family, address) of the host; ValueError when one of them is not public, unless that is allowed."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the host {host} is not known") from error
    addresses = [(int(family), str(place[0])) for family, _, _, _, place in found]
    for _, address in addresses:
        if not limits.private and not public(ipaddress.ip_address(address.partition("%")[0])):
            raise ValueError(f"{host} is not a public address (--allow-private-image-addresses allows it)")
    return addresses


def _connection(
    scheme: str, host: str, port: int, addresses: Sequence[tuple[int, str]], deadline: float
) -> http.client.HTTPConnection:
    """A connection to the first of the checked addresses that answers; the certificate is that of the name."""
    made = http.client.HTTPConnection(host, port, timeout=_left(deadline))
    error: OSError | None = None
    for _, address in addresses:
        try:
            plain = socket.create_connection((address, port), timeout=_left(deadline))
        except OSError as failed:
            error = failed
            continue
        try:
            made.sock = (
                ssl.create_default_context().wrap_socket(plain, server_hostname=host) if scheme == "https" else plain
            )
        except OSError as failed:
            plain.close()
            raise ValueError(f"it cannot be fetched: {_reason(failed)}") from failed
        return made
    raise ValueError(f"it cannot be fetched: {_reason(error or OSError('no address'))}")


def _body(
    connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, limits: ImageLimits, deadline: float
) -> bytes:
    too_large = f"it is larger than the {limits.size} bytes that a picture may have (--max-image-bytes)"
    if answer.getheader("Content-Encoding", "identity") != "identity":
        raise ValueError("the server sends it compressed, which was not asked for")
    if (answer.length or 0) > limits.size:
        raise ValueError(too_large)
    data = bytearray()
    while True:
        if connection.sock is not None:
            connection.sock.settimeout(_left(deadline))
        piece = answer.read1(PIECE)
        if not piece:
            if answer.length:
                raise ValueError("the server broke off")
            return bytes(data)
        data += piece
        if len(data) > limits.size:
            raise ValueError(too_large)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise ValueError("it takes longer than a picture may (--image-timeout)")
    return left


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it takes longer than a picture may (--image-timeout)"
    return f"{type(error).__name__}" if not str(error) else str(error)
