"""The routes that SageMaker calls: /invocations, and /ping."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Probe, Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="sagemaker",
        build="maxserve.plugins.api.sagemaker.router:router",
        prefix="/",
        default=True,
        probes={"/ping": Probe()},
        summary="POST /invocations",
    )
