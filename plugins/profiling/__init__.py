"""Profiles of devices and of the API process: so far, their options."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """What is marked for profilers, and whether requests may ask for profiles."""
    yield ConfigSection(
        name="profiling",
        schema="maxserve.plugins.profiling.options:DeviceOptions",
        within="profiling",
        title="Profiling",
        unsupported="nothing is marked for profilers; leave it out",
    )
    yield ConfigSection(
        name="profiles",
        schema="maxserve.plugins.profiling.options:RequestOptions",
        within="server",
        unsupported="requests cannot ask for profiles; leave it out",
    )
