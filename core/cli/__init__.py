"""The command line, `max`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs `max` with the process's own arguments and environment, and ends the process with its exit status."""
    import gc
    import os
    import sys

    from maxserve.core.runtime.ahead import ahead_of

    gc.disable()  # until a command runs: what is imported stays, and looking through it for garbage takes its time
    words = sys.argv[1:] if argv is None else argv
    ahead = ahead_of(words)
    try:
        from maxserve.core.cli.run import run

        sys.exit(run(words, os.environ, ahead))
    finally:
        if ahead is not None:
            ahead.end()
