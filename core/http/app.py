"""The FastAPI application that serves a model. The plugins' routers, behind one way of reading and answering."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from maxserve.core.http.access import KeyCheck, OriginCheck
from maxserve.core.http.failures import FailureDialects, failure_of, log_unforeseen, unrouted
from maxserve.core.http.health_gate import PROBES
from maxserve.core.http.mounting import RouteMount, mount_routes
from maxserve.core.http.request_middleware import BodyMemory, RequestMiddleware
from maxserve.core.http.threads import Threads
from maxserve.core.interfaces.errors import EngineError, RequestError
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.runtime.observing import Observers

READING = 1  # threads that read large bodies: what they hold up is held up by one at a time


def create_app(
    context: ServerContext,
    routes: Iterable[tuple[str, APIRouter, str]],
    dialects: FailureDialects | None = None,
    probes: Collection[str] = tuple(PROBES),
) -> FastAPI:
    """The application with every router at its place.

    `routes` are (prefix, router, plugin name); PluginError when two plugins would answer the same request. The
    context is also at `app.state.context`. `dialects` are the forms of failures, and `probes` paths that are answered
    before the application.
    """
    dialects = dialects or FailureDialects()
    settings = context.settings.server
    # The documentation pages of FastAPI load scripts from elsewhere; only the schema itself is served.
    app = FastAPI(title="maxserve", summary=f"serves {context.model.name}", docs_url=None, redoc_url=None)
    templates = mount_routes(app, [RouteMount(*route) for route in routes], probes)
    reading = context.owned(Threads(READING, "bodies"))
    app.state.context, app.state.reading = context, reading
    # The last one added is the first to see a request.
    if settings.api_key:
        app.add_middleware(KeyCheck, keys=settings.api_key, dialects=dialects)
    else:
        app.add_middleware(OriginCheck, server=settings, dialects=dialects)
    app.add_middleware(
        RequestMiddleware,
        bodies=BodyMemory(settings.max_request_bytes, reading),
        dialects=dialects,
        observers=Observers.of(context.observers),
        templates=templates,
    )

    async def answer(request: Request, error: Exception) -> Response:
        log_unforeseen(error, f"{request.method} {request.url.path}")
        return dialects.response(failure_of(error), request.scope)

    async def answer_unrouted(request: Request, error: Exception) -> Response:
        return dialects.response(unrouted(request, error), request.scope)

    for kind in (RequestError, EngineError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_unrouted)
    return app
