"""The adapters that a new worker is to have, and those that are left out because workers died of them."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Collection, Mapping

from maxserve.core.interfaces.errors import RequestError
from maxserve.core.interfaces.request import AdapterChange

log = logging.getLogger("maxserve.supervisor")

MOST_DEATHS = 2  # of workers, before the adapter that was read or first used then is left out


class AdapterChanges:
    """The changes of adapters that workers made.

    A worker's death is put down to the adapter that it was reading: changes are made in the order in which they are
    sent. Where it read none, it is put down to those that were in use and that no request was answered with since
    they were loaded.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count()  # of changes, in the order in which they are sent
        self._latest: dict[str, tuple[int, AdapterChange]] = {}  # by name: the latest one that was made
        self._of_the_start: Collection[str] | None = None  # adapters that every worker begins with
        self._loading: dict[int, AdapterChange] = {}
        self._again = ""  # the adapter that a worker reads because the one before had it
        self._untried: dict[str, str] = {}  # the sources of those that no request was answered with yet, by name
        self._deaths: Counter[tuple[str, str]] = Counter()  # by name and source
        self._left_out: dict[str, str] = {}  # their sources, by name

    @property
    def for_a_new_worker(self) -> tuple[AdapterChange, ...]:
        """The latest change of each adapter that is not as at the start."""
        return tuple(change for _, change in self._latest.values())

    @property
    def left_out(self) -> Mapping[str, RequestError]:
        """What requests for adapters that are served no longer are answered with, by name."""
        return {name: _error(name, status=503) for name in self._left_out}

    def begin(self, change: AdapterChange) -> int:
        """Its number; RequestError for a load of what is left out, unless it is to replace that."""
        if change.action == "load" and not change.replace and self._left_out.get(change.name) == change.source:
            raise _error(change.name, status=503 if change.pinned is None else 409)
        number = next(self._numbers)
        if change.action == "load":
            self._loading[number] = change
        return number

    def end(self, number: int) -> None:
        """A change was made, or could not be."""
        self._loading.pop(number, None)

    def made(self, number: int, change: AdapterChange) -> None:
        self._untried.pop(change.name, None)
        if change.action == "load":
            self._left_out.pop(change.name, None)
            self._untried[change.name] = change.source
        before, _ = self._latest.get(change.name, (-1, change))
        if number > before and change.pinned is not None:  # a new worker is asked again for what requests have loaded
            self._keep(number, change)

    def _keep(self, number: int, change: AdapterChange) -> None:
        self._latest[change.name] = number, change
        if change.action == "unload" and change.name not in (self._of_the_start or ()):
            del self._latest[change.name]  # there is nothing to undo: a server may see any number of names

    def reads_again(self, name: str) -> None:
        """The worker that is being started reads this adapter from now on, "" for none any more."""
        self._again = name

    def answered(self, name: str) -> None:
        """A request with this adapter was answered to its end."""
        if name in self._untried:
            self._deaths.pop((name, self._untried.pop(name)), None)

    def worker_ready(self, adapters: Collection[str]) -> None:
        """A worker serves these adapters."""
        if self._of_the_start is None:
            self._of_the_start = adapters
        self._again = ""

    def worker_died(self, in_use: Collection[str]) -> Collection[str]:
        """Returns the adapters that are left out from now on; `in_use` are those of requests that were open."""
        reading = next(iter(self._loading.values()), None)
        again = self._latest.get(self._again)
        if again is not None:
            suspects = {self._again: again[1].source}
        elif reading is not None:
            suspects = {reading.name: reading.source}
        else:
            suspects = {name: source for name, source in self._untried.items() if name in in_use}
        self._loading.clear()
        self._again = ""
        self._untried = {name: source for name, source in self._untried.items() if name in self._latest}
        return [name for name, source in suspects.items() if self._died_of(name, source)]

    def _died_of(self, name: str, source: str) -> bool:
        self._deaths[name, source] += 1
        if self._deaths[name, source] < MOST_DEATHS:
            return False
        del self._deaths[name, source]
        self._left_out[name] = source
        log.error("the adapter %s is left out: workers died while they read it or computed with it first", name)
        number, change = next(self._numbers), AdapterChange(id="", action="unload", name=name)
        self._keep(number, change)
        return True


def _error(name: str, *, status: int) -> RequestError:
    return RequestError(
        f"the adapter {name!r} is left out, because workers of this server died while they read it or computed with it "
        "first; mend it, and load it with /v1/load_lora_adapter and load_inplace",
        param="model",
        code="service_unavailable" if status == 503 else None,
        status=status,
    )
