"""Sources of images: what a data:, http(s): or file: URL stands for, or a ValueError that says why it may not."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from maxserve.plugins.vision.fetching import Deadline, fetch
from maxserve.plugins.vision.limits import ImageLimits

_SLICE = 1 << 20  # bytes that are decoded in one go, a multiple of four; other threads run in between
_BLANKS = b"\t\n\f\r "  # passed over in base64
_BREAKS = str.maketrans("", "", "\t\n\r")  # dropped from URLs
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def scheme_of(url: str) -> str:
    """The scheme in lower case; "" where there is none."""
    head, colon, _ = url[:64].lstrip().partition(":")
    return head.translate(_BREAKS).lower() if colon else ""


def read_source(url: str, limits: ImageLimits, deadline: Deadline | None = None) -> bytes:
    """The bytes that `url` stands for: data: always, http(s): and file: where the operator allows it.

    URLs are read as browsers do: blanks around them and line breaks within them mean nothing.
    """
    scheme = scheme_of(url)
    if scheme == "data":
        return _data(url, limits)
    url = url.strip().translate(_BREAKS)
    if scheme in ("http", "https"):
        if not limits.hosts:
            raise ValueError("images are not fetched from the network (--allowed-image-domains allows it); send data:")
        return fetch(url, limits, deadline)
    if scheme == "file":
        return _file(url, limits)
    raise ValueError(f"a URL with data:, http:, https: or file: is expected, not {url[:32]!r}")


def _data(url: str, limits: ImageLimits) -> bytes:
    """The content of a data: URL. What its media type says is passed over: the bytes say what they are."""
    head, comma, body = url.partition(",")
    if not comma:
        raise ValueError("a data: URL must look like data:image/png;base64,…")
    parameters = [parameter.strip() for parameter in head.lower().split(";")]
    try:
        encoded = body.encode("ascii")
    except UnicodeEncodeError as error:
        raise ValueError("the data: URL is not base64: it has characters beyond ASCII") from error
    if encoded.find(b"%") >= 0:
        encoded = _percent_decoded(encoded)
    data = _base64_decoded(encoded, limits) if "base64" in parameters else encoded
    if len(data) > limits.size:
        raise ValueError(too_large(limits))
    return data


def _percent_decoded(text: bytes) -> bytes:
    """In slices that end between two escapes: a single call would hold up other threads, and make a list of it all."""
    decoded, start = bytearray(), 0
    while start < len(text):
        end = start + _SLICE
        cut = text.rfind(b"%", end - 2, end)
        end = cut if cut > start else end
        decoded += unquote_to_bytes(text[start:end])
        start = end
    return bytes(decoded)


def _base64_decoded(text: bytes, limits: ImageLimits) -> bytes:
    """What base64 stands for, in both of its alphabets, with blanks anywhere, with or without padding."""
    text = text.translate(_URL_SAFE, _BLANKS).rstrip(b"=")
    if len(text) // 4 * 3 > limits.size:
        raise ValueError(too_large(limits))
    data = bytearray()
    try:
        for start in range(0, len(text), _SLICE):
            part = text[start : start + _SLICE]
            data += base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data: URL is not base64: {error}") from error
    return bytes(data)


def _file(url: str, limits: ImageLimits) -> bytes:
    """What lies in an allowed folder, links followed; nothing is known of what lies elsewhere."""
    if not limits.roots:
        raise ValueError("files are not read (--allowed-image-roots allows it); send data:")
    parts = urlsplit(url)
    if parts.netloc.lower() not in ("", "localhost"):
        raise ValueError("a file: URL must name a file of this machine: file:///path")
    try:
        path = Path(unquote(parts.path)).resolve(strict=True)
        inside = any(path.is_relative_to(root) for root in limits.roots)
        data = _content(path, limits) if inside else None
    except (OSError, RuntimeError):
        data = None
    if data is None:
        raise ValueError("there is no such file in the folders that the server may read (--allowed-image-roots)")
    return data


def _content(path: Path, limits: ImageLimits) -> bytes:
    # The path is free of links: one that was put there meanwhile is not followed, and a pipe does not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no regular file")
        if status.st_size > limits.size:
            raise ValueError(too_large(limits))
        data = file.read(limits.size + 1)
    if len(data) > limits.size:
        raise ValueError(too_large(limits))
    return data


def too_large(limits: ImageLimits) -> str:
    return f"it is larger than the {limits.size} bytes that an image may have (--max-image-bytes)"
