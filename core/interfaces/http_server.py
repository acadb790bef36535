"""HTTP servers: what speaks HTTP on the port."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from maxserve.core.http.failures import Failure

__all__ = ["HttpServer", "HttpServerContext", "ServesHttp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServer(Component):
    """A server of ASGI applications. `build(HttpServerContext)` gives a ServesHttp."""

    kind: ClassVar[str] = "http_server"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServerContext(Context):
    """`refusal(failure, headers)` is the answer to what does not reach the application: requests that are malformed,
    too slow or too many. `headers` are what came of the request's. `grace` is how long requests under way may take to
    end after `stop`, in seconds.
    """

    grace: float
    refusal: Callable[[Failure, Headers], Response]


class ServesHttp(Protocol):
    """Serves one application, in the event loop that is running."""

    async def serve(self, app: ASGIApp, sockets: Sequence[socket.socket]) -> None:
        """Serves on sockets that listen already; returns after `stop`, when the requests under way have ended or
        were cut off.

        A client that hangs up is an http.disconnect to the application. Signals are the caller's, and there are no
        lifespan events.
        """

    def stop(self, *, at_once: bool) -> None:
        """Takes no more connections; `at_once`, cuts off those there are. May be called again."""
