"""The route that SageMaker calls; its /ping is among the server's own probes."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="sagemaker",
        build="maxserve.plugins.api.sagemaker.router:router",
        prefix="/",
        default=True,
        summary="POST /invocations",
    )
