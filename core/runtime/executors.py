"""The executor that was chosen, and what every executor is given."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from maxserve.core.interfaces.executor import Executor, ExecutorContext, WorkerLauncher
from maxserve.core.runtime.openmp import WAITING
from maxserve.core.runtime.terminal import is_terminal, relay

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.registry.protocol import Host

# -P: a worker imports from where its parent does, and never by accident from the working directory.
COMMAND = (sys.executable, "-P", "-m", "maxserve.core.runtime.worker")


def build_executor(settings: Settings, host: Host) -> WorkerLauncher:
    """What starts workers; PluginError for a name that no plugin declares."""
    entry = host.of(Executor).get(settings.server.executor)
    launcher: WorkerLauncher = host.build(entry, executor_context(host.section_values(settings)))
    return launcher


def executor_context(sections: Mapping[type[Any], Any] | None = None) -> ExecutorContext:
    """What an executor gets. On a terminal this process alone writes: a worker's lines would tear its bars."""
    return ExecutorContext(
        sections=sections or {}, command=COMMAND, environ=WAITING, relay=relay if is_terminal() else None
    )
