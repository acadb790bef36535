"""Routes of the Open Inference Protocol, version 2, as KServe and Triton speak it."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Probe, Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="kserve",
        build="maxserve.plugins.api.kserve.router:router",
        prefix="/",
        default=True,
        failures={"/v2": "maxserve.plugins.api.kserve.failures:failure_response"},
        probes={
            "/v2/health/live": Probe(live=True, answer={"live": True}),
            "/v2/health/ready": Probe(answer={"ready": True}),
        },
        summary="/v2, /v2/models/{name}, …/ready, …/infer, …/generate, …/generate_stream",
    )
