"""The middleware that plugins declare: its order, and the applications that it wraps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, cast

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from maxserve.core.http.failures import Failure, FailureDialects
from maxserve.core.interfaces.errors import PluginError, cause
from maxserve.core.interfaces.middleware import Middleware, MiddlewareContext, SupportsRefusals, WrapsApp
from maxserve.core.registry.sources import BUILT_IN

if TYPE_CHECKING:
    from maxserve.core.registry.entries import Entry
    from maxserve.core.registry.protocol import Host


def key_in(headers: Headers) -> str:
    """The key a client brings, in `Authorization: Bearer` or in `x-api-key`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key", "").strip()


def in_order(entries: Iterable[Entry[Middleware]]) -> list[Entry[Middleware]]:
    """The entries in the order in which requests come to them; PluginError where they contradict each other."""
    left = sorted(entries, key=lambda entry: (entry.origin != BUILT_IN, entry.name))
    earlier = {entry.name: set(entry.component.after) for entry in left}
    for entry in left:
        for name in entry.component.before:
            earlier.setdefault(name, set()).add(entry.name)
        if not entry.component.outermost:
            earlier[entry.name].update(other.name for other in left if other.component.outermost)
    try:
        TopologicalSorter(earlier).prepare()
    except CycleError as error:
        raise PluginError(
            f"middleware cannot be put in order: {' before '.join(error.args[1])}; leave one of their plugins out"
        ) from None
    ordered: list[Entry[Middleware]] = []
    while left:
        names = {entry.name for entry in left}
        first = next(entry for entry in left if not earlier[entry.name] & names)
        left.remove(first)
        ordered.append(first)
    return ordered


def _try(entry: Entry[Middleware], wrap: WrapsApp) -> None:
    """PluginError, before the server is ready, unless the middleware makes one application of another."""
    try:
        wrapped = wrap(_nowhere)
    except Exception as error:
        raise PluginError(f"{entry.title}: it cannot stand before an application: {cause(error)}") from error
    if not callable(wrapped):
        raise PluginError(f"{entry.title}: it made a {type(wrapped).__name__} of an application; give another one")


async def _nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("no request comes to what is only tried")


class MiddlewareStack:
    """The middleware of a server, built once and wrapped around each of its applications."""

    def __init__(
        self, inner: Sequence[WrapsApp] = (), outer: Sequence[WrapsApp] = (), dialects: FailureDialects | None = None
    ) -> None:
        self.inner, self._outer = tuple(inner), tuple(outer)
        self._dialects = dialects or FailureDialects()

    @classmethod
    def build(cls, host: Host, context: MiddlewareContext, dialects: FailureDialects) -> MiddlewareStack:
        """All that plugins declare; PluginError for what cannot wrap an application."""
        parts: dict[bool, list[WrapsApp]] = {False: [], True: []}
        for entry in in_order(host.of(Middleware)):
            built = host.build(entry, context)
            if not callable(built):
                raise PluginError(f"{entry.title}: {entry.where!r} returned a {type(built).__name__}, no function")
            _try(entry, cast("WrapsApp", built))
            parts[entry.component.outermost].append(cast("WrapsApp", built))
        return cls(parts[False], parts[True], dialects)

    def around(self, app: ASGIApp) -> ASGIApp:
        """`app` behind what is outermost."""
        return reduce(lambda inner, wrap: wrap(inner), reversed(self._outer), app)

    def refusal(self, failure: Failure, headers: Headers) -> Response:
        """What answers a request that no middleware sees, for the HTTP server."""
        response = self._dialects.response(failure, {"path": "/"})
        for built in (*self.inner, *self._outer):
            if isinstance(built, SupportsRefusals):
                response.headers.update(built.refusal_headers(headers))
        return response
