"""Executors that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.config import ConfigSection
from maxserve.interfaces.executor import Executor


@hookimpl
def maxserve_executors() -> Iterable[Executor]:
    yield Executor(
        name="local", build="maxserve.plugins.executors.local:LocalLauncher", summary="a process of this machine"
    )


@hookimpl
def maxserve_config() -> Iterable[ConfigSection]:
    """Where the processes of a server talk, and what it does of a larger one's work."""
    yield ConfigSection(
        name="endpoints",
        schema="maxserve.plugins.executors.options:EndpointOptions",
        within="server",
        check="maxserve.plugins.executors.endpoints:check",
    )
    yield ConfigSection(name="sharing", schema="maxserve.plugins.executors.options:SharingOptions", within="scheduling")
