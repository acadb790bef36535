"""Where does the URL of a picture lead, and may it? Bytes come out, or a ValueError that says why not."""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from maxserve.core.images.fetching import fetch
from maxserve.core.images.limits import ImageLimits


def read_source(url: str, limits: ImageLimits) -> bytes:
    """The bytes that `url` stands for: data: always, http(s): and file: where the operator allows it."""
    scheme = url.partition(":")[0].lower()
    if scheme == "data":
        return _data(url, limits)
    if scheme in ("http", "https"):
        if not limits.hosts:
            raise ValueError(
                "pictures are not fetched from the network (--allowed-image-domains allows it); send data:"
            )
        return fetch(url, limits)
    if scheme == "file":
        return _file(url, limits)
    raise ValueError(f"a URL with data:, http:, https: or file: is expected, not {url[:32]!r}")


def _data(url: str, limits: ImageLimits) -> bytes:
    head, comma, body = url[len("data:") :].partition(",")
    kind, *parameters = head.lower().split(";")
    if not comma or "base64" not in parameters:
        raise ValueError("a data: URL must look like data:image/png;base64,…")
    if kind and not kind.startswith("image/"):
        raise ValueError(f"a picture is expected, but the data: URL is of type {kind[:64]!r}")
    if len(body) // 4 * 3 > limits.size + 3:
        raise ValueError(too_large(limits))
    try:
        data = base64.b64decode(unquote(body) if "%" in body else body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the data: URL is not base64: {error}") from error
    if len(data) > limits.size:
        raise ValueError(too_large(limits))
    return data


def _file(url: str, limits: ImageLimits) -> bytes:
    """What lies in an allowed folder, links followed; nothing is said of what lies elsewhere."""
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
    return f"it is larger than the {limits.size} bytes that a picture may have (--max-image-bytes)"
