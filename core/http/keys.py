"""API keys (`--api-key`)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from maxserve.core.http.dialects import FailureDialects
from maxserve.core.http.errors import Failure

REALM = {"WWW-Authenticate": "Bearer"}


def key_in(headers: Headers) -> str:
    """The key a client brings, in `Authorization: Bearer` or in `x-api-key`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


class KeyCheck:
    """ASGI middleware that refuses requests without one of `keys`.

    All keys are compared, each in constant time, so that an answer's delay tells nothing of them. Probes of health
    never come here: the gate answers them.
    """

    def __init__(self, app: ASGIApp, *, keys: Sequence[str], dialects: FailureDialects) -> None:
        self._app, self._dialects = app, dialects
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._knows(key_in(Headers(scope=scope))):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "an API key is needed"})
        else:
            refusal = self._dialects.response(_refusal(key_in(Headers(scope=scope))), scope)
            await refusal(scope, receive, send)

    def _knows(self, key: str) -> bool:
        given = key.encode("utf-8", "surrogatepass")
        return bool(sum([hmac.compare_digest(given, known) for known in self._keys]))


def _refusal(key: str) -> Failure:
    reason = "the API key is not one this server knows" if key else "an API key is needed"
    message = f"{reason}; send one that was given to --api-key as `Authorization: Bearer KEY`"
    return Failure(status=401, message=message, code="invalid_api_key", headers=REALM)
