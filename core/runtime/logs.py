"""The format of log lines. One handler on standard error, the same in the API process and in the workers.

Prompts and texts are never logged.
"""

from __future__ import annotations

import logging
import sys

FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
QUIET = ("uvicorn", "uvicorn.error", "uvicorn.access", "httpx", "httpcore", "urllib3", "filelock", "asyncio")


class PrefixFormatter(logging.Formatter):
    """Puts the prefix and a space before every line, those of tracebacks and tables too."""

    def __init__(self, prefix: str | None) -> None:
        super().__init__(FORMAT, datefmt="%H:%M:%S")
        self._prefix = f"{prefix} " if prefix else ""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if not self._prefix:
            return text
        return "\n".join(self._prefix + line for line in text.split("\n"))


def configure(level: int | None = None, prefix: str | None = None) -> None:
    """Sends the log of this process to standard error; repeated calls replace each other.

    `level` None keeps the one that was configured before, INFO at first. Libraries speak at WARNING and above unless
    the level is DEBUG.
    """
    root = logging.getLogger()
    if level is None:
        level = root.level if any(isinstance(h.formatter, PrefixFormatter) for h in root.handlers) else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrefixFormatter(prefix))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in QUIET:
        logging.getLogger(name).setLevel(level if level <= logging.DEBUG else max(level, logging.WARNING))
