"""The FastAPI application that serves a model. The plugins' routers, behind one way of reading and answering."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from maxserve.core.http.body_memory import BodyMemory
from maxserve.core.http.edge import Edge
from maxserve.core.http.errors import failure_of, log_unforeseen, unrouted
from maxserve.core.http.keys import KeyCheck
from maxserve.core.http.mounting import RouteMount, mount_routes
from maxserve.core.http.origins import OriginCheck
from maxserve.core.http.threads import Threads
from maxserve.core.http.wordings import Wordings
from maxserve.core.interfaces.errors import EngineError, RequestError
from maxserve.core.interfaces.routes import ServerContext

READING = 1  # threads that read large bodies: what they hold up is held up by one at a time


def create_app(
    context: ServerContext, routes: Iterable[tuple[str, APIRouter, str]], wordings: Wordings | None = None
) -> FastAPI:
    """The application with every router at its place.

    `routes` are (prefix, router, plugin name); PluginError when two plugins would answer the same request. The
    context is also at `app.state.context`, and at `app.state.wordings` is what failures are worded by.
    """
    said = wordings or Wordings()
    settings = context.settings.server
    # The documentation pages of FastAPI load scripts from elsewhere; only the schema itself is served.
    app = FastAPI(title="maxserve", summary=f"serves {context.model.name}", docs_url=None, redoc_url=None)
    reading = context.owned(Threads(READING, "bodies"))
    app.state.context, app.state.wordings, app.state.reading = context, said, reading
    # The last one added is the first to see a request.
    if settings.api_key:
        app.add_middleware(KeyCheck, keys=settings.api_key, wordings=said)
    else:
        app.add_middleware(OriginCheck, server=settings, wordings=said)
    app.add_middleware(Edge, bodies=BodyMemory(settings.max_request_bytes, reading), wordings=said)

    async def answer(request: Request, error: Exception) -> Response:
        log_unforeseen(error, f"{request.method} {request.url.path}")
        return said.response(failure_of(error), request.scope)

    async def answer_unrouted(request: Request, error: Exception) -> Response:
        return said.response(unrouted(request, error), request.scope)

    for kind in (RequestError, EngineError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_unrouted)
    mount_routes(app, [RouteMount(*route) for route in routes])
    return app
