"""Whose request is it? What schedulers and others that distinguish clients go by."""

from __future__ import annotations

import hashlib

from starlette.datastructures import Headers

from maxserve.http import key_in

DIGITS = 16
LONGEST = 128  # characters of a name that is kept as it is; schedulers remember who was there


def client_of(user: str | None, headers: Headers) -> str:
    """The `user` a request names, else a digest of its API key, else nothing.

    Keys are not checked here, and never kept: logs and messages show "key-" and the first digits of the
    key's SHA-256.
    """
    if user:
        return user if len(user) <= LONGEST else _digest("user", user)
    key = key_in(headers)
    return _digest("key", key) if key else ""


def _digest(kind: str, text: str) -> str:
    return f"{kind}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:DIGITS]}"
