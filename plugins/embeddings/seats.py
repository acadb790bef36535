"""The adapters of the texts of a step: which requests can have theirs in it, and the slots of the rows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from maxserve.interfaces.adapter import AdapterPool, PooledAdapter
    from maxserve.plugins.embeddings.queue import EncodeWork, Taken

log = logging.getLogger("maxserve.engine")


class Seats:
    """What a step has of the slots of a pool; all are given back with `clear`."""

    def __init__(self, pool: AdapterPool | None) -> None:
        self._pool = pool
        self._seated: list[PooledAdapter] = []
        self.failed: dict[str, str] = {}  # by request: why its adapter could not be put into a slot

    def admits(self, work: EncodeWork) -> bool:
        """Whether the adapter of a request has a slot in this step, which it is given if there is one."""
        adapter = work.adapter
        if adapter is None or adapter in self._seated:
            return True
        assert self._pool is not None, "a request has an adapter"
        try:
            seated = self._pool.enter(adapter)
        except Exception as error:  # a plugin's, about this adapter: others go on
            log.exception("adapter %s could not be put into a slot", adapter.name)
            self.failed[work.request.id] = f"the adapter {adapter.name!r} failed: {type(error).__name__}: {error}"
            return False
        if seated:
            self._seated.append(adapter)
        return seated

    def slots(self, taken: Sequence[Taken]) -> NDArray[np.int64] | None:
        """The slot of each text, 0 for none; None where no text has an adapter."""
        if not self._seated:
            return None
        return np.array([0 if each.work.adapter is None else each.work.adapter.slot for each in taken], dtype=np.int64)

    def clear(self) -> None:
        """The step is over."""
        for adapter in self._seated:
            assert self._pool is not None, "it has given slots"
            self._pool.leave(adapter)
        self._seated.clear()
        self.failed = {}
