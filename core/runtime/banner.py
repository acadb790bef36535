"""What the operator sees while the server starts, and when it is ready."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, TextIO

from maxserve.core.config.show import describe
from maxserve.core.interfaces.progress import Progress
from maxserve.core.loading.progress import show_progress
from maxserve.core.registry.sources import BUILT_IN
from maxserve.core.runtime.ports import is_local, url

if TYPE_CHECKING:
    from maxserve.core.config import Settings
    from maxserve.core.interfaces.engine import ModelInfo
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.server")


class StartDisplay:
    """Shows how far a worker's start has come, until `clear`: bars on a terminal, log lines elsewhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._stack = ExitStack()
        self._progress: Progress | None = None
        self._phase = ""

    def show(self, phase: str, fraction: float | None) -> None:
        if self._progress is None:
            self._progress = self._stack.enter_context(show_progress(self._stream))
        if phase != self._phase:
            self._phase = phase
            self._progress.phase(phase)
        if fraction is not None:
            self._progress.advance(fraction)

    def clear(self) -> None:
        """Takes the bars off the terminal, so that others can write there; harmless when there are none."""
        self._stack.close()
        self._progress, self._phase = None, ""


def introduce(settings: Settings, host: Host) -> None:
    """Logs whose code takes part, and every setting when `--pretty-print-config` asks for it."""
    for plugin in host.plugins:
        if plugin.active and plugin.source.origin != BUILT_IN:
            log.info("uses %s", plugin.source.label)
    if settings.server.pretty_print_config:
        for block in describe(settings, sections=host.plugin_sections()):
            log.info("settings\n%s", block)


def announce(info: ModelInfo, listening: socket.socket) -> None:
    """Logs what is served and where."""
    rows = {
        "model": info.name,
        "architecture": info.architecture,
        "parameters": f"{info.parameters / 1e6:,.1f} million",
        "device": info.device,
        "max length": f"{info.max_length:,} tokens",
    }
    log.info("serving\n%s", "\n".join(f"  {name:<13} {value}" for name, value in rows.items()))
    log.info("Server ready on %s (Press CTRL+C to quit)", url(listening))
    if is_local(listening):
        log.info("only this machine can reach it; --host 0.0.0.0 opens it to the network")
