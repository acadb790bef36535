"""The start of `max serve`. The port first, then the worker, and the rest while the worker loads the model."""

from __future__ import annotations

import gc
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from maxserve.core.config.components import asked_task, check_for_task, with_required
from maxserve.core.interfaces.errors import EngineError, PluginError, SettingsError
from maxserve.core.interfaces.executor import StartsReplicas
from maxserve.core.interfaces.process import ProcessInfo
from maxserve.core.interfaces.routes import Routes
from maxserve.core.loading.progress import NullDisplay
from maxserve.core.loading.resolve import resolve_model
from maxserve.core.registry.protocol import Host
from maxserve.core.registry.sources import BUILT_IN
from maxserve.core.runtime import logs, ports
from maxserve.core.runtime.client import WorkerClient
from maxserve.core.runtime.executors import build_executor, worker_start
from maxserve.core.runtime.fleet import Fleet
from maxserve.core.runtime.supervisor import Supervisor

if TYPE_CHECKING:
    from socket import socket

    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelFiles
    from maxserve.core.interfaces.process import Display
    from maxserve.core.registry.entries import Entry
    from maxserve.core.runtime.ahead import Ahead

log = logging.getLogger("maxserve.server")


def serve(
    settings: Settings, host: Host, *, engine: str | None = None, notes: Sequence[str] = (), ahead: Ahead | None = None
) -> int:
    """Serves until SIGINT or SIGTERM and returns the exit status: 0, or 1 when the engine failed for good.

    `engine` is the "module:attribute" by which workers build theirs, if not the one for the model's task, `notes` are
    logged first, and `ahead` is a worker that has begun. UsageError when what the settings ask for cannot be served.
    Main thread only.
    """
    logs.configure(prefix=settings.server.log_prefix)
    with ExitStack() as stack:
        gc.disable()  # until the application is made: see settle_heap
        stack.callback(gc.enable)
        stack.enter_context(_termination_as_interrupt())
        try:
            _serve(settings, host, engine, notes, ahead, stack)
        except KeyboardInterrupt:
            log.info("stopped while starting")
        except EngineError as error:
            log.error("%s", error)
            return 1
    return 0


def _serve(
    settings: Settings, host: Host, engine: str | None, notes: Sequence[str], ahead: Ahead | None, stack: ExitStack
) -> None:
    routes = chosen_routes(settings, host)
    listening: list[socket] = []
    if not settings.server.headless:
        listening = [stack.enter_context(closing(ports.listen(settings.server.host, settings.server.port)))]
    process = ProcessInfo(kind="server")
    stack.callback(process.exit)
    host.process_start(process)
    display = process.display or NullDisplay()
    _introduce(host, notes)
    files = None if settings.model.defer_resolve else _resolve(settings, host, display)
    if files is not None:
        settings = with_required(settings, host.architectures.get(files.architecture).component, host.plugin_sections())
        check_for_task(settings, files.task, host.plugin_sections())
    launcher = build_executor(settings, host, display.relay, ahead)

    def supervisor(own: Settings) -> Supervisor:
        """That of a replica, which has settings of its own."""
        start = worker_start(own, host, files, stack.enter_context(launcher.endpoints()), engine)
        client = WorkerClient(max_queue_size=settings.scheduling.max_queue_size)
        return Supervisor(start, host.fingerprint, client, launcher)

    if settings.model.data_parallel_degree == 1:
        fleet = Fleet([supervisor(settings)])
    elif isinstance(launcher, StartsReplicas):
        fleet = Fleet([supervisor(own) for own in launcher.replica_settings(settings)])
    else:
        raise SettingsError(f"--executor {settings.server.executor} cannot start replicas (--data-parallel-degree)")
    stack.callback(fleet.kill)
    fleet.spawn()
    if ahead is not None:
        ahead.end()  # where it was of no use

    # The web framework takes most of a second to import; the worker imports torch in the meantime.
    from maxserve.core.runtime.serving import Plan, Serving

    plan = Plan(
        settings=settings, host=host, files=files, routes=routes, listening=listening, fleet=fleet, display=display
    )
    Serving(plan).run()
    log.info("stopped")


def _introduce(host: Host, notes: Sequence[str]) -> None:
    """Logs whose code takes part, and what else there is to say."""
    for plugin in host.plugins:
        if plugin.active and plugin.source.origin != BUILT_IN:
            log.info("uses %s", plugin.source.label)
    for note in notes:
        log.info("%s", note)


def _resolve(settings: Settings, host: Host, display: Display) -> ModelFiles:
    model = settings.model
    try:
        return resolve_model(
            model, host, progress=display, prefer_legacy=model.use_legacy_module, task=asked_task(settings)
        )
    finally:
        display.clear()


def chosen_routes(settings: Settings, host: Host) -> list[Entry[Routes]]:
    """The routes that are served by default, then others of plugins that the operator named in `--enable-routes`."""
    named = set(settings.server.enable_routes)
    offering = {entry.plugin for entry in host.of(Routes)}
    if unknown := sorted(named - offering):
        raise PluginError(
            f"--enable-routes {unknown[0]}: no plugin of that name has routes; those that do: "
            f"{', '.join(sorted(offering)) or 'none'}"
        )
    chosen = [entry for entry in host.of(Routes) if entry.component.default or entry.plugin in named]
    return sorted(chosen, key=lambda entry: not entry.component.default)


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM unwind the stack as SIGINT does, while no event loop is there to take either."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
