"""What the operator of a server sees of its start: bars on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys

from maxserve import hookimpl
from maxserve.interfaces.process import ProcessInfo


@hookimpl
def maxserve_process_start(process: ProcessInfo) -> None:
    if process.kind != "server" or process.display is not None:
        return
    if sys.stderr is None or not sys.stderr.isatty():
        from maxserve.plugins.console.lines import LinesDisplay

        process.display = LinesDisplay()
        return
    from maxserve.plugins.console.bars import BarsDisplay

    display = BarsDisplay(sys.stderr)
    process.display = display
    process.on_exit(display.close)
