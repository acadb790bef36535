"""The model runners that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import ModelRunner, hookimpl


@hookimpl
def maxserve_model_runners() -> Iterable[ModelRunner]:
    yield ModelRunner(
        name="eager",
        build="maxserve.plugins.runners.eager:EagerRunner",
        summary="calls the model as it is written, operation by operation; any device",
    )
