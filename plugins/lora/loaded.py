"""The adapters in the memory of the host: how many there may be, and which of them makes room for another one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from maxserve.interfaces.served_names import ServedName, ServedNames
from maxserve.plugins.lora.options import LoRAOptions

MOST = 64  # beside those of the start, where --max-cpu-loras does not say


def most_loaded(options: LoRAOptions, initial: int) -> int:
    """How many adapters there may be in memory, of which so many are there from the start."""
    return options.max_cpu_loras or initial + max(MOST, options.max_num_loras)


class LoadedAdapters:
    """Which adapters are loaded, and which of them were because a request asked for them; the event loop owns it.

    A request uses what it asks for while the task runs in which it asked: by its end the worker has the request, and
    does not unload an adapter that one uses.
    """

    def __init__(self, names: ServedNames, most: int) -> None:
        self.most = most
        self._names = names
        self._first_used: dict[str, None] = {}  # the one that was asked for longest ago first
        self._asking: Counter[str] = Counter()  # tasks of requests, by the name that they ask for
        self._loading: Counter[str] = Counter()

    def __contains__(self, name: object) -> bool:
        """Whether there is memory for it: it is loaded, or is being loaded."""
        return name in self._loading or any(served.adapter == name for served in self._served())

    @property
    def full(self) -> bool:
        return len({served.adapter for served in self._served()} | self._loading.keys()) >= self.most

    @property
    def unused(self) -> list[str]:
        """Those that were loaded for a request and that none asks for now, the longest unused first."""
        return [name for name in self._first_used if name in self._names and not self._asking[name]]

    def track(self, name: str) -> None:
        """The task that runs is that of a request which asks for this name."""
        if name in self._first_used:
            self._first_used[name] = self._first_used.pop(name)
        if (task := asyncio.current_task()) is not None:
            self._asking[name] += 1
            task.add_done_callback(partial(self._untrack, name))

    def _untrack(self, name: str, _: asyncio.Task[Any]) -> None:
        self._asking[name] -= 1
        if not self._asking[name]:
            del self._asking[name]

    def begin(self, name: str) -> None:
        """One is being loaded, and counts from now on."""
        self._loading[name] += 1

    def end(self, name: str) -> None:
        """It is loaded, or could not be."""
        self._loading[name] -= 1
        if not self._loading[name]:
            del self._loading[name]

    def loaded(self, name: str, *, first_use: bool) -> None:
        """One is loaded, because a request asked for it or because it was named; a named one stays."""
        if first_use:
            self._first_used[name] = None
        else:
            self._first_used.pop(name, None)

    def _served(self) -> Iterator[ServedName]:
        return (served for served in self._names if served.adapter and served.name in self._names)
