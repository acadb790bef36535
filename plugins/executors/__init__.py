"""Executors that come with maxserve."""

from __future__ import annotations

from collections.abc import Iterable

from maxserve import hookimpl
from maxserve.interfaces.executor import Executor


@hookimpl
def maxserve_executors() -> Iterable[Executor]:
    yield Executor(
        name="local", build="maxserve.plugins.executors.local:LocalLauncher", summary="a process of this machine"
    )
