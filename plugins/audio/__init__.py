"""Generation of audio: so far, the arguments of the task."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """What the task is given."""
    yield ConfigSection(
        name="audio",
        schema="maxserve.plugins.audio.task_args:TaskOptions",
        within="model",
        check="maxserve.plugins.audio.task_args:check",
    )
