"""GET /metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from maxserve.interfaces.routes import ServerContext
from maxserve.plugins.observers.prometheus import Prometheus


def router(context: ServerContext) -> APIRouter:
    """Without the observer "prometheus" there is nothing to show, and the path does not exist."""
    routes = APIRouter()
    for observer in context.observers:
        if isinstance(observer, Prometheus):
            _serve(routes, observer)
    return routes


def _serve(routes: APIRouter, observer: Prometheus) -> None:
    async def metrics() -> Response:
        return Response(observer.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    routes.add_api_route("/metrics", metrics, methods=["GET"], response_model=None)
