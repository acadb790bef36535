"""Executors: where the worker of a model runs, and the ranks that share it with others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import msgspec

from maxserve.core.interfaces.component import Component, Context, Ref

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["Endpoints", "Executor", "ExecutorContext", "StartsReplicas", "WorkerLauncher", "WorkerProcess"]

LOCAL_GROUP = "maxserve.ranks:LocalGroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Executor(Component):
    """Where workers run. `build(ExecutorContext)` gives a WorkerLauncher.

    `group` makes the RankGroup of each process that shares a model, in that process and once all are there, of its Rank
    and of what is called with an error after which ranks have not computed the same; that does not return.
    """

    kind: ClassVar[str] = "executor"
    group: Ref = LOCAL_GROUP


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutorContext(Context):
    """`command` is a worker, which needs the variables `environ` besides those of this process.

    Where there is a `relay`, it gets the stream of what the worker writes to standard error, which must not reach the
    terminal by itself. Asked with all variables of a worker, and whether its standard error is to be a pipe, `begun`
    gives a process of `command` that runs on this machine already and waits for its start message, if there is one.
    """

    command: tuple[str, ...]
    environ: Mapping[str, str]
    relay: Callable[[IO[bytes]], None] | None = None
    begun: Callable[[Mapping[str, str], bool], Popen[bytes] | None] | None = None


class WorkerProcess(Protocol):
    """A worker that was started."""

    @property
    def pid(self) -> int: ...

    async def exited(self) -> int:
        """Its exit status, negative for a signal, as soon as it has one."""
        ...

    def cut(self) -> None:
        """Closes its lifeline: the worker ends at once, whatever it is doing."""

    def kill(self) -> None:
        """Ends it for certain and returns when it is gone; harmless when it is."""


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The ZMQ addresses of one worker. The receiver binds: the worker `requests`, the API process `outputs`."""

    requests: str
    outputs: str


class WorkerLauncher(Protocol):
    """Starts workers: one at a time, or at once all ranks that share a model."""

    def endpoints(self) -> AbstractContextManager[Endpoints]:
        """Addresses that the workers of one server and its API process reach, while the block runs.

        SettingsError where there are none.
        """
        ...

    def launch(self, start: bytes) -> WorkerProcess:
        """A new worker, which is given `start` on its standard input; that stays open until it shall end.

        OSError when it cannot be started. Called by a thread that outlives the worker.
        """
        ...


@runtime_checkable
class StartsReplicas(Protocol):
    """A WorkerLauncher that can start several replicas of the model. Each has its own `endpoints()`."""

    def replica_settings(self, settings: Any) -> Sequence[Any]:
        """The `maxserve.options.Settings` of each replica (--data-parallel-degree): its devices, its part of memory."""
        ...
