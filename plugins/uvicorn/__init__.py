"""The HTTP server `uvicorn`, within bounds of size, time and number."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import HttpServer, hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_http_servers() -> Iterable[HttpServer]:
    yield HttpServer(
        name="uvicorn", build="maxserve.plugins.uvicorn.server:UvicornServer", summary="HTTP/1.1, within limits"
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """What a connection may take."""
    yield ConfigSection(name="connections", schema="maxserve.plugins.uvicorn.options:ConnectionLimits", within="server")
