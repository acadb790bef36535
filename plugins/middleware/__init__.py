"""Middleware that comes with maxserve: who may use the server, and how much memory bodies take."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import Middleware, hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_middleware() -> Iterable[Middleware]:
    yield Middleware(
        name="cors",
        build="maxserve.plugins.middleware.access:AllowOrigins",
        outermost=True,
        summary="lets pages of other sites read answers",
    )
    yield Middleware(
        name="bodies",
        build="maxserve.plugins.middleware.bodies:BodyLimit",
        before=("access",),
        summary="refuses bodies for which there is no memory",
    )
    yield Middleware(
        name="access",
        build="maxserve.plugins.middleware.access:access_check",
        summary="asks for a key, or refuses pages of other sites",
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Who may use the server, and how large bodies may be."""
    yield ConfigSection(
        name="access",
        schema="maxserve.plugins.middleware.options:AccessOptions",
        within="server",
        check="maxserve.plugins.middleware.options:check_access",
    )
    yield ConfigSection(name="bodies", schema="maxserve.plugins.middleware.options:BodyOptions", within="server")
