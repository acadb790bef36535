"""The command line, `max`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Runs `max` with the process's own arguments and environment, and ends the process with its exit status."""
    import os
    import sys

    from maxserve.core.cli.run import run

    sys.exit(run(sys.argv[1:] if argv is None else argv, os.environ))
