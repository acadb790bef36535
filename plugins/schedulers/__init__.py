"""Schedulers that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve.core.components import Scheduler
from maxserve.core.hookspecs import hookimpl


@hookimpl
def maxserve_schedulers() -> Iterable[Scheduler]:
    """Continuous batching."""
    yield Scheduler(
        name="continuous",
        build="maxserve.plugins.schedulers.continuous:Continuous",
        summary="prompts first, in order of arrival, then one token for everyone; mixed batches when asked for",
    )
