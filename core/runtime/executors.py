"""The executor that was chosen, what every executor is given, and what workers are started with."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

from maxserve.core.config.catalog import without_secrets
from maxserve.core.config.values import cpu_ranks
from maxserve.core.interfaces.executor import Executor, ExecutorContext, WorkerLauncher
from maxserve.core.registry.entries import where
from maxserve.core.runtime.ahead import COMMAND
from maxserve.core.runtime.messages import Start
from maxserve.core.runtime.openmp import WAITING, usable_cores
from maxserve.core.runtime.rank_addresses import first_rank

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.executor import Endpoints
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


def worker_start(
    settings: Settings, host: Host, files: ModelFiles | None, endpoints: Endpoints, engine: str | None = None
) -> Start:
    """That of a worker, which is the first of its ranks where `--devices` asks for several."""
    group = where(host.of(Executor).get(settings.server.executor).component.group)
    return Start(
        manifest=host.manifest(),
        settings=without_secrets(settings, host.plugin_sections()).model_dump_json(),
        files=files,
        endpoints=endpoints,
        search_path=tuple(sys.path),
        parent=os.getpid(),
        log_level=logging.getLogger().level,
        engine=engine,
        rank=first_rank(endpoints, settings.model.devices, settings.server.step_timeout, group),
    )
