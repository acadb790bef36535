"""What can go wrong, as one tree.

MaxserveError
├── UsageError            what the operator asked for cannot be done; one line on stderr, exit status 2
│   ├── SettingsError     an option, file key or environment value is wrong
│   ├── UnsupportedError  an option whose feature is not there yet
│   ├── PluginError       a plugin cannot be found, imported, or clashes with another
│   │   └── Unavailable   a component cannot work on this machine; another one may
│   └── ModelError        a model cannot be found, read or fitted
├── RequestError          what a client asked for cannot be done; an HTTP error body
│   └── QueueFullError    too many requests wait already (429)
├── GrammarUnsupported    a grammar back end cannot express a constraint; a RequestError when no other can
└── EngineError           the engine failed while it served
    └── WorkerDied        the worker process is gone

Messages name the thing, the cause and the fix, in one line.
"""

from __future__ import annotations

__all__ = [
    "EngineError",
    "GrammarUnsupported",
    "MaxserveError",
    "ModelError",
    "PluginError",
    "QueueFullError",
    "RequestError",
    "SettingsError",
    "Unavailable",
    "UnsupportedError",
    "UsageError",
    "WorkerDied",
]


class MaxserveError(Exception):
    """Base of everything maxserve raises on purpose."""


class UsageError(MaxserveError):
    """What the operator asked for cannot be done."""


class SettingsError(UsageError):
    """An option, a file key or an environment value is wrong."""


class UnsupportedError(UsageError):
    """An option whose feature is not there yet."""


class PluginError(UsageError):
    """A plugin cannot be found or imported, offers the wrong thing, or clashes with another."""


class Unavailable(PluginError):
    """A component cannot work on this machine, and says why; the next one of its kind is taken instead."""


class ModelError(UsageError):
    """A model cannot be found, read, or fitted into memory."""


class RequestError(MaxserveError):
    """What a client asked for cannot be done.

    `status` is the HTTP status, `param` the request field at fault, `code` its kind, for programs.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


class QueueFullError(RequestError):
    """Too many requests wait already; `retry_after` is in seconds."""

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message, code="queue_full", status=429)
        self.retry_after = retry_after


class GrammarUnsupported(MaxserveError):
    """A constraint that a grammar back end cannot express. `path` says where: "$.properties.a" in a schema.

    `invalid`: no back end can, because the constraint itself is wrong.
    """

    def __init__(self, message: str, *, path: str = "", invalid: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.invalid = invalid


class EngineError(MaxserveError):
    """The engine failed while it served."""


class WorkerDied(EngineError):
    """The worker process is gone; its open requests are lost."""


def cause(error: BaseException) -> str:
    """An exception on one line; our own speak for themselves and go without their class name."""
    text = " ".join(str(error).split())
    if isinstance(error, MaxserveError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
