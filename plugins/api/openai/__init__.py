"""OpenAI's routes: models, chat completions, completions."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.routes import Probe, Routes


@hookimpl
def maxserve_routes() -> Iterable[Routes]:
    yield Routes(
        name="openai",
        build="maxserve.plugins.api.openai.router:router",
        prefix="/",
        default=True,
        failures={"/": "maxserve.plugins.api.openai.failures:failure_response"},
        probes={"/v1/health": Probe()},
        summary="/v1/models, /v1/chat/completions and /v1/completions, also with /render, /v1/responses, "
        "/v1/embeddings, /pooling, /tokenize, /detokenize, /tokenizer_info, /version",
    )
