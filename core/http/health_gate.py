"""The health gate: answers before the model is ready and while its worker is away, and probes at any time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maxserve.core.http.failures import RETRY_AFTER, Failure, FailureDialects, unavailable
from maxserve.core.interfaces.errors import PluginError
from maxserve.core.interfaces.routes import Probe

PROBES: Mapping[str, Probe] = {"/health": Probe(), "/health/ready": Probe(), "/health/live": Probe(live=True)}


def all_probes(given: Iterable[tuple[str, Mapping[str, Probe]]]) -> dict[str, Probe]:
    """The server's own probes and those of plugins, by path; PluginError when two want the same path."""
    owners, probes = dict.fromkeys(PROBES, "the server itself"), dict(PROBES)
    for plugin, more in given:
        for path, probe in more.items():
            if path in owners:
                raise PluginError(f"plugin {plugin!r}: {path} is a probe of {owners[path]} already")
            owners[path], probes[path] = f"plugin {plugin!r}", probe
    return probes


class _Closed(msgspec.Struct, frozen=True, kw_only=True):
    """Why no request is let in: `status` is "loading", "restarting" or "failed"."""

    status: str
    message: str
    phase: str | None = None
    progress: float | None = None

    def health(self) -> dict[str, Any]:
        if self.status == "loading":
            return {"status": self.status, "phase": self.phase, "progress": self.progress}
        return {"status": self.status, "message": self.message}


class HealthGate:
    """An ASGI application that stands before the real one, from the moment the port is bound.

    Closed, it answers everything but probes of life with 503. Open, it answers probes with 200 and hands on the rest.
    Probes are answered here whatever plugins are loaded, and need no key. Requests that came in while it was open go
    on in the application that took them, whatever happens to the gate.
    """

    def __init__(self, probes: Mapping[str, Probe] = PROBES, dialects: FailureDialects | None = None) -> None:
        self._app: ASGIApp | None = None
        self._probes = probes
        self._dialects = dialects or FailureDialects()
        self._closed = _Closed(status="loading", message="the model is loading", phase="starting")

    @property
    def is_open(self) -> bool:
        return self._app is not None

    def progress(self, phase: str, fraction: float | None = None) -> None:
        """What the closed gate tells of the start: a phase, and how much of it is done, 0 to 1."""
        self._closed = _Closed(status="loading", message="the model is loading", phase=phase, progress=fraction)

    def open(self, app: ASGIApp) -> None:
        """Lets requests on to `app`."""
        self._app = app

    def close(self, message: str) -> None:
        """Lets no request in for now: the worker went away and will be back, or the server is about to end."""
        self._app, self._closed = None, _Closed(status="restarting", message=message)

    def fail(self, message: str) -> None:
        """Lets no request in any more."""
        self._app, self._closed = None, _Closed(status="failed", message=message)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http" and scope["path"] in self._probes:
            await self._probe(scope)(scope, receive, send)
        elif self._app is not None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013, "reason": self._closed.message})
        else:
            await self._dialects.response(unavailable(self._reason()), scope)(scope, receive, send)

    def _probe(self, scope: Scope) -> Response:
        probe = self._probes[scope["path"]]
        if scope["method"] not in ("GET", "HEAD"):
            message, headers = f"{scope['path']} takes GET only", {"Allow": "GET, HEAD"}
            return self._dialects.response(Failure(status=405, message=message, headers=headers), scope)
        if self._app is not None or (probe.live and self._closed.status != "failed"):
            return _json(200, dict(probe.answer))
        return _json(503, self._closed.health(), {"Retry-After": str(RETRY_AFTER)})

    def _reason(self) -> str:
        closed = self._closed
        if closed.phase is None:
            return closed.message
        done = "" if closed.progress is None else f", {closed.progress:.0%}"
        return f"{closed.message} ({closed.phase}{done})"


def _json(status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


async def _lifespan(receive: Receive, send: Send) -> None:
    """Says yes to both ends of the server's life; what has to be set up or torn down has other owners."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
