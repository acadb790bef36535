"""Routes for those who run the server. On like all routes that come with maxserve; `--no-plugin builtin.admin`: off."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="admin",
        build="maxserve.plugins.api.admin.router:router",
        prefix="/",
        default=True,
        summary="POST /reset_prefix_cache, /load",
    )
