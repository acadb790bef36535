"""The names under which a server answers: the model's own, and those of adapters of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from maxserve.core.interfaces.errors import RequestError

if TYPE_CHECKING:
    from maxserve.core.interfaces.engine import ModelInfo


__all__ = ["ServedName", "ServedNames"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedName:
    """A name that requests may give as their model.

    `adapter` is the one that requests under it are answered with, "" for none; `parent` the name of the model that it
    adapts. `root` is what was loaded, where that is another name: of a folder its own name, for its path is the
    operator's.
    """

    name: str
    adapter: str = ""
    parent: str | None = None
    root: str = ""

    @staticmethod
    def of_adapter(name: str, *, source: str, parent: str) -> ServedName:
        """The name of an adapter of the model `parent`, which was found at `source`."""
        return ServedName(name=name, adapter=name, parent=parent, root=PurePath(source).name)


class ServedNames:
    """The registry of names, in the API process; the event loop owns it. The model's own name is the first."""

    def __init__(self, info: ModelInfo) -> None:
        self._own = ServedName(name=info.name)
        self._names = {info.name: self._own}
        self._offered: dict[str, ServedName] = {}
        self._left_out: dict[str, RequestError] = {}
        self._loads: list[Callable[[str], Awaitable[None]]] = []
        self._tracks: list[Callable[[str], None]] = []
        self._add_adapters(info)

    def __iter__(self) -> Iterator[ServedName]:
        """Those that are served, and those that will be when they are asked for."""
        return iter(tuple({**self._names, **self._offered, **self._names}.values()))

    def __contains__(self, name: object) -> bool:
        """Whether it is served now."""
        return name in self._names

    def get(self, name: str | None) -> ServedName:
        """Who answers under a name; none, or an empty one, stands for the model itself. RequestError 404 for others."""
        if not name:
            return self._own
        found = self._names.get(name)
        if found is None:
            raise self.unknown(name)
        self._track(found.adapter)
        return found

    def find(self, name: str) -> ServedName:
        """The same of a path, where the part of a name after its last slash will do."""
        short = [served for served in self._names.values() if served.name.rpartition("/")[2] == name]
        return self.get(name if name in self._names or not short else short[0].name)

    def offer(self, served: ServedName) -> None:
        """Has a name listed that what `load_with` was given adds when it is asked for."""
        self._offered[served.name] = served

    def load_with(self, load: Callable[[str], Awaitable[None]]) -> None:
        """Has `load` called with names that are not served and are asked for: it adds the name, or leaves it.

        It raises RequestError for a name that it knows and cannot serve.
        """
        self._loads.append(load)

    def track_with(self, track: Callable[[str], None]) -> None:
        """Has `track` called with each name of an adapter that a request asks for, in the task of the request."""
        self._tracks.append(track)

    def _track(self, name: str) -> None:
        for track in self._tracks if name else ():
            track(name)

    async def load(self, name: str | None) -> None:
        """Loads what has the name, if it is not served and something has it; before `get` or `find`."""
        if not name or name in self._names:
            return
        if name in self._left_out:
            raise self.unknown(name)
        self._track(name)
        for load in self._loads:
            await load(name)
            if name in self._names:
                return

    def add(self, served: ServedName) -> None:
        """One name more; ValueError when it is taken."""
        if served.name in self._names:
            raise ValueError(f"the name {served.name!r} is taken")
        self._left_out.pop(served.name, None)
        self._names[served.name] = served

    def remove(self, name: str) -> None:
        """One name less; requests under way go on. ValueError for the model's own name, and one that is not there."""
        if name == self._own.name or name not in self._names:
            raise ValueError(f"the name {name!r} cannot be removed: {self._listed()} are served")
        del self._names[name]

    def leave_out(self, errors: Mapping[str, RequestError]) -> None:
        """Has requests for these names answered so until they are added; forgets those of an earlier call."""
        self._left_out = dict(errors)

    def restore(self, info: ModelInfo) -> None:
        """A new worker serves this: its adapters are those of the info, whatever the one before had."""
        for served in self:
            if served.adapter and (served.adapter not in info.adapters or served.name == served.adapter):
                self.remove(served.name)
        self._add_adapters(info)

    def _add_adapters(self, info: ModelInfo) -> None:
        for adapter in info.adapters:
            if adapter not in self._names:
                source = info.adapter_sources.get(adapter, "")
                self.add(ServedName.of_adapter(adapter, source=source, parent=info.name))

    def unknown(self, name: str) -> RequestError:
        """What is answered for a name that is not served."""
        if name in self._left_out:
            error = self._left_out[name]
            return RequestError(error.message, param=error.param, code=error.code, status=error.status)
        message = f"the model {name[:200]!r} does not exist; this server has {self._listed()}"
        return RequestError(message, param="model", code="model_not_found", status=404)

    def _listed(self) -> str:
        return ", ".join(repr(served.name) for served in self)
