"""Which FastAPI application serves a model? The plugins' routers, behind one way of reading and answering."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from maxserve.core.errors import EngineError, RequestError
from maxserve.core.interfaces import ServerContext
from maxserve.core.server.edge import Edge
from maxserve.core.server.errors import answer, answer_unrouted
from maxserve.core.server.mounting import RouteMount, mount_routes

MAX_BODY_BYTES = 64 * 1024 * 1024


def create_app(
    context: ServerContext,
    routes: Iterable[tuple[str, APIRouter, str]],
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
) -> FastAPI:
    """The application with every router at its place.

    `routes` are (prefix, router, plugin name); PluginError when two plugins would answer the same request. The
    context is also at `app.state.context`.
    """
    # The documentation pages of FastAPI load scripts from elsewhere; only the schema itself is served.
    app = FastAPI(title="maxserve", summary=f"serves {context.model.name}", docs_url=None, redoc_url=None)
    app.state.context = context
    app.add_middleware(Edge, max_body_bytes=max_body_bytes)
    for kind in (RequestError, EngineError, RequestValidationError, ValidationError):
        app.add_exception_handler(kind, answer)
    app.add_exception_handler(HTTPException, answer_unrouted)
    mount_routes(app, [RouteMount(*route) for route in routes])
    return app
