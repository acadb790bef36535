"""The process group in which the ranks of a model meet: gloo over this machine's loopback, for ranks on its CPUs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch.distributed

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

LOOPBACK = "127.0.0.1"

_c10d: Any = torch.distributed  # its stubs know neither the stores nor gloo's options


def file_store(path: str, size: int) -> object:
    """Where `size` processes find each other by a file; no socket, and no name that has to be looked up."""
    return _c10d.FileStore(path, size)


def thread_store() -> object:
    """Where threads of one process do."""
    return _c10d.HashStore()


def process_group(store: object, rank: int, size: int, timeout: float) -> ProcessGroup:
    """Returns when all ranks are there, which wait so many seconds for each other.

    It is not the process's only one: tests have several in one process.
    """
    gloo = _c10d.ProcessGroupGloo
    options = gloo._Options()
    options._timeout = timedelta(seconds=timeout)
    options._devices = [gloo.create_device(hostname=LOOPBACK)]
    group: ProcessGroup = gloo(store, rank, size, options)
    return group
