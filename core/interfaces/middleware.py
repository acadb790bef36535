"""Middleware: what stands between the HTTP server and the routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias, runtime_checkable

from maxserve.core.interfaces.component import Component, Context

if TYPE_CHECKING:
    from starlette.datastructures import Headers
    from starlette.responses import Response
    from starlette.types import ASGIApp, Scope

    from maxserve.core.http.failures import Failure

__all__ = ["Middleware", "MiddlewareContext", "SupportsRefusals", "WrapsApp"]

WrapsApp: TypeAlias = "Callable[[ASGIApp], ASGIApp]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Middleware(Component):
    """Something that every request passes. `build(MiddlewareContext)` gives what makes one ASGI application of another.

    `before` and `after` name other middleware that requests come to later and earlier; names that are not there say
    nothing. Where they leave it open, the server's own comes before that of plugins, and then the name decides. What is
    `outermost` comes before all that is not, and before the server's own answers: it hears of health checks and of what
    comes while the model loads.
    """

    kind: ClassVar[str] = "middleware"

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    outermost: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MiddlewareContext(Context):
    """`host` is the address that the server listens on.

    `response(failure, scope)` is the answer that refuses a request, in the form of the API whose path it has. Raising a
    RequestError comes to the same, but for what is `outermost`.
    """

    host: str
    response: Callable[[Failure, Scope], Response]


@runtime_checkable
class SupportsRefusals(Protocol):
    """What a build may give besides: headers of answers that the HTTP server makes itself, which no middleware sees.

    Those reject requests that are malformed, too slow or too many; `headers` are what came of the request's.
    """

    def refusal_headers(self, headers: Headers) -> Mapping[str, str]: ...
