"""The executor that was chosen, and what every executor is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

from maxserve.core.config.values import cpu_ranks
from maxserve.core.interfaces.executor import Executor, ExecutorContext, WorkerLauncher
from maxserve.core.runtime.ahead import COMMAND
from maxserve.core.runtime.openmp import WAITING, usable_cores

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.registry.protocol import Host
    from maxserve.core.runtime.ahead import Ahead

    Relay = Callable[[IO[bytes]], None]


def build_executor(
    settings: Settings, host: Host, relay: Relay | None = None, ahead: Ahead | None = None
) -> WorkerLauncher:
    """What starts workers; PluginError for a name that no plugin declares."""
    entry = host.of(Executor).get(settings.server.executor)
    context = executor_context(host.section_values(settings), relay, ahead, ranks=cpu_ranks(settings.model.devices))
    launcher: WorkerLauncher = host.build(entry, context)
    return launcher


def executor_context(
    sections: Mapping[type[Any], Any] | None = None,
    relay: Relay | None = None,
    ahead: Ahead | None = None,
    *,
    ranks: int = 1,
) -> ExecutorContext:
    """What an executor gets whose workers have the cores of this machine together with other ranks."""
    begun = None if ahead is None else ahead.take
    environ = WAITING if ranks == 1 else {**WAITING, "OMP_NUM_THREADS": str(max(1, usable_cores() // ranks))}
    return ExecutorContext(sections=sections or {}, command=COMMAND, environ=environ, relay=relay, begun=begun)
