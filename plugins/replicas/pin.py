"""The replica that a request asks for, by a header."""

from __future__ import annotations

from contextvars import ContextVar

from starlette.types import ASGIApp, Receive, Scope, Send

from maxserve.interfaces.errors import RequestError
from maxserve.interfaces.middleware import MiddlewareContext

HEADER = "X-data-parallel-rank"
_NAME = HEADER.lower().encode()
_wanted: ContextVar[str] = ContextVar("wanted_replica", default="")


class ReplicaPin:
    """Middleware that keeps what the header of a request says, for `pinned` in the tasks of that request."""

    def __init__(self, context: MiddlewareContext) -> None:
        pass

    def __call__(self, app: ASGIApp) -> ASGIApp:
        async def keeping(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                for name, value in scope["headers"]:
                    if name == _NAME:
                        _wanted.set(value.decode("latin-1"))
            await app(scope, receive, send)

        return keeping


def pinned(replicas: int) -> int | None:
    """The replica that the request of this task asks for; RequestError where there is none of that number."""
    wanted = _wanted.get()
    if not wanted:
        return None
    if not (wanted.isascii() and wanted.isdigit() and int(wanted) < replicas):
        raise RequestError(
            f"the header {HEADER}: expected a number below {replicas}, the replicas, not {wanted[:20]!r}"
        )
    return int(wanted)
