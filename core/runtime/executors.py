"""The executor that was chosen, and what every executor is given."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

from maxserve.core.interfaces.executor import Executor, ExecutorContext, WorkerLauncher
from maxserve.core.runtime.openmp import WAITING

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.registry.protocol import Host

    Relay = Callable[[IO[bytes]], None]

# -P: a worker imports from where its parent does, and never by accident from the working directory.
COMMAND = (sys.executable, "-P", "-m", "maxserve.core.runtime.worker")


def build_executor(settings: Settings, host: Host, relay: Relay | None = None) -> WorkerLauncher:
    """What starts workers; PluginError for a name that no plugin declares."""
    entry = host.of(Executor).get(settings.server.executor)
    launcher: WorkerLauncher = host.build(entry, executor_context(host.section_values(settings), relay))
    return launcher


def executor_context(sections: Mapping[type[Any], Any] | None = None, relay: Relay | None = None) -> ExecutorContext:
    """What an executor gets."""
    return ExecutorContext(sections=sections or {}, command=COMMAND, environ=WAITING, relay=relay)
