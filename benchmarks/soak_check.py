"""A plugin of the soak: the engine recounts its pages and rows whenever it falls idle, and fails if one is lost."""

from __future__ import annotations

import logging

from maxserve.core.hookspecs import hookimpl
from maxserve.core.registry.host import ProcessInfo


@hookimpl
def maxserve_process_start(process: ProcessInfo) -> None:
    """The engine recounts when its log is at its most detailed; see `check_when_idle`."""
    if process.kind == "worker":
        logging.getLogger("maxserve.engine").setLevel(logging.DEBUG)
