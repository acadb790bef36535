"""The model runners that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import ModelRunner, hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_model_runners() -> Iterable[ModelRunner]:
    yield ModelRunner(
        name="eager",
        build="maxserve.plugins.runners.eager:EagerRunner",
        summary="calls the model as it is written, operation by operation; any device",
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Whether steps are recorded."""
    yield ConfigSection(
        name="graphs",
        schema="maxserve.plugins.runners.options:GraphOptions",
        within="scheduling",
        unsupported="steps are not recorded; leave it out",
    )
