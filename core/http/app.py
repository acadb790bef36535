"""The FastAPI application that serves a model. The plugins' routers, behind one way of reading and answering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from maxserve.core.http.failures import FailureDialects, failure_of, log_unforeseen, unrouted
from maxserve.core.http.health_gate import PROBES
from maxserve.core.http.mounting import SCHEMA, RouteMount, later_schemas, mount_routes
from maxserve.core.http.request_middleware import RequestMiddleware
from maxserve.core.interfaces.errors import EngineError, RequestError
from maxserve.core.interfaces.middleware import WrapsApp
from maxserve.core.interfaces.routes import ServerContext
from maxserve.core.runtime.observing import Observers


def create_app(
    context: ServerContext,
    routes: Iterable[tuple[str, APIRouter, str]],
    dialects: FailureDialects | None = None,
    probes: Collection[str] = tuple(PROBES),
    middleware: Sequence[WrapsApp] = (),
) -> FastAPI:
    """The application with every router mounted.

    `routes` are (prefix, router, plugin name); PluginError when two plugins would answer the same request. The
    context is also at `app.state.context`. `dialects` are the forms of failures, and `probes` paths that are answered
    before the application. Requests come to the first `middleware` first.
    """
    dialects = dialects or FailureDialects()
    # The documentation pages of FastAPI load scripts from elsewhere; only the schema itself is served.
    app = FastAPI(title="maxserve", summary=f"serves {context.model.name}", openapi_url=None)
    mounts = [RouteMount(*route) for route in routes]
    templates = mount_routes(app, mounts, probes)
    app.add_route(SCHEMA, _schema_of(app, mounts), include_in_schema=False)
    app.state.context = context
    observers = Observers.of(context.observers)
    for wrap in reversed(middleware):  # the last one added is the first to see a request
        app.add_middleware(wrap)
    app.add_middleware(RequestMiddleware, dialects=dialects, observers=observers, templates=templates)

    async def answer(request: Request, error: Exception) -> Response:
        log_unforeseen(error, f"{request.method} {request.url.path}")
        return dialects.response(failure_of(error), request.scope)

    async def answer_unrouted(request: Request, error: Exception) -> Response:
        return dialects.response(unrouted(request, error), request.scope)

    for kind in (RequestError, EngineError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_unrouted)
    return app


def _schema_of(app: FastAPI, mounts: Sequence[RouteMount]) -> Callable[[Request], Awaitable[Response]]:
    """What answers /openapi.json: made at the first request, and in a thread, since that takes a tenth of a second."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            for mount in mounts:
                for schema in later_schemas(mount.router.routes):
                    schema.fill()
        return app.openapi()

    async def answer(request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(describe))

    return answer
