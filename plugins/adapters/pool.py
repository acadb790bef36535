"""The pool of a model's adapters: which are served, and which have slots."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

from maxserve.interfaces.adapter import AdapterContext, AdapterPoolContext, SaysChanges
from maxserve.interfaces.adapter_source import AdapterSourceContext, adapter_sources
from maxserve.interfaces.errors import RequestError, SettingsError
from maxserve.interfaces.request import AdapterChange
from maxserve.plugins.adapters.bound import AdaptedRunner, StepRows, rows_by_slot
from maxserve.plugins.adapters.projections import AdaptedModel
from maxserve.plugins.adapters.shares import SharesAdapters, Tell
from maxserve.registry import cause

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from maxserve.interfaces.adapter import AdapterTable
    from maxserve.interfaces.inputs import AdapterRows
    from maxserve.interfaces.runner import Runner

log = logging.getLogger("maxserve.engine")


def slot_pool(context: AdapterPoolContext) -> SlotPool:
    """The pool of a kind of adapters, with the table that the kind builds."""
    model = AdaptedModel(context.model, context.adapter.component.kinds)

    def find(name: str) -> str | None:
        about = AdapterSourceContext(sections=context.sections, path=context.path, of_operator=True)
        sources = adapter_sources(context.components, about)
        return next((found for source in sources if (found := source.find(name)) is not None), None)

    table = context.components.build(
        context.adapter,
        AdapterContext(
            sections=context.sections,
            compute=context.compute,
            rows=context.rows,
            device=context.device,
            projections=model.projections,
            locate=model.locator(context.weights),
            find=find,
        ),
    )
    return SlotPool(table, model)


class ServedAdapter:
    """One loaded adapter, a generation of its name. `slot` 0: it has none; `rows` counts those who compute with it."""

    __slots__ = ("generation", "images", "loaded", "name", "pinned", "pool", "requests", "rows", "slot", "source")

    def __init__(self, pool: SlotPool, change: AdapterChange, generation: int, loaded: Any) -> None:
        self.pool, self.name, self.generation, self.loaded = pool, change.name, generation, loaded
        self.source, self.pinned = change.source, bool(change.pinned)
        self.images = pool.changes_images(loaded)
        self.slot = self.rows = self.requests = 0


class Load(msgspec.Struct, frozen=True):
    """An adapter that is being read in a thread."""

    change: AdapterChange
    read: Future[Any]


class SlotPool:
    """An AdapterPool. The adapters that requests may name, and the slots that those who run have theirs in.

    An adapter keeps its slot while a sequence with a row uses it, and afterwards until the slot is needed: the one that
    was used last goes last. Who asks for an adapter has that generation of it to the end.

    Adapters are read in a thread, one after the other. `wake` is called there when one has been read, which `collect`
    then serves. Changes of one name are made in the order in which they were asked for.
    """

    def __init__(self, table: AdapterTable, model: AdaptedModel | None = None) -> None:
        self._rows = StepRows()
        self._tower: frozenset[str] = frozenset()  # projections that compute images
        self._table = table
        self._model = model
        self._by_name: dict[str, ServedAdapter] = {}
        self._free = list(range(table.slots, 0, -1))
        self._idle: dict[ServedAdapter, None] = {}  # that have a slot which no row uses, the longest unused first
        self._retired: list[tuple[ServedAdapter, str]] = []  # and the change that waits for its last request
        self._generations = 0
        self._thread: ThreadPoolExecutor | None = None
        self._loads: dict[str, Load] = {}  # by name
        self._later: dict[str, list[AdapterChange]] = {}  # by name: what was asked for while it was being read
        self._read = threading.Event()
        self._tell: Callable[[int, Any], None] | None = None  # the other ranks what is in a slot
        self.wake: Callable[[], None] | None = None
        self.done: list[str] = []  # changes that are made and not reported yet
        self.rejected: list[tuple[str, RequestError]] = []  # likewise, that cannot be made though they were begun

    @property
    def slots(self) -> int:
        return self._table.slots

    @cached_property
    def memory(self) -> int:
        return self._table.memory()

    @property
    def sources(self) -> dict[str, str]:
        """Where each of those that are served was found, by its name."""
        return {name: adapter.source for name, adapter in self._by_name.items()}

    @property
    def changing(self) -> bool:
        """Whether something is being read, or a change is made and not reported yet."""
        return bool(self._loads or self.reports)

    @property
    def reports(self) -> bool:
        """Whether a step has something to do or to say for changes."""
        return bool(self.done) or self._read.is_set()

    def changes_images(self, loaded: Any) -> bool:
        """Whether images have features of their own with an adapter that was loaded."""
        table = self._table
        return bool(self._tower.intersection(table.changes(loaded)) if isinstance(table, SaysChanges) else self._tower)

    def use(self) -> tuple[tuple[str, int, int], ...]:
        """Of each adapter with requests its name, how many run and how many wait, those with an old one among them."""
        found: dict[str, tuple[int, int]] = {}
        for a in (*self._by_name.values(), *(adapter for adapter, _ in self._retired)):
            if a.requests:
                running, waiting = found.get(a.name, (0, 0))
                found[a.name] = running + a.rows, waiting + a.requests - a.rows
        return tuple((name, *counts) for name, counts in found.items())

    def named(self, name: str) -> ServedAdapter | None:
        """The adapter a new request is computed with, "" for none; RequestError for one that is not there."""
        if not name:
            return None
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(self._by_name) or "none"
            raise RequestError(
                f"there is no adapter {name!r}; there are: {known}", param="model", code="model_not_found", status=404
            )
        return found

    # --- slots ------------------------------------------------------------------------------------------------

    def has_room(self, adapter: ServedAdapter) -> bool:
        """Whether a sequence with this adapter could begin now."""
        return bool(adapter.slot or self._free or self._idle)

    def enter(self, adapter: ServedAdapter) -> bool:
        """A sequence with this adapter begins, if there is a slot for it."""
        if not adapter.slot and not self._place(adapter):
            return False
        adapter.rows += 1
        self._idle.pop(adapter, None)
        return True

    def leave(self, adapter: ServedAdapter) -> None:
        """A sequence with this adapter has no row any more."""
        adapter.rows -= 1
        if not adapter.rows and not adapter.pinned:
            self._idle[adapter] = None

    def _place(self, adapter: ServedAdapter) -> bool:
        if not self._free:
            longest = next(iter(self._idle), None)
            if longest is None:
                return False
            self._give_back(longest)
        self._table.place(adapter.loaded, self._free[-1])  # which stays free where this fails
        if self._tell is not None:
            self._tell(self._free[-1], adapter.loaded)
        adapter.slot = self._free.pop()
        return True

    def _pin(self, adapter: ServedAdapter, *, pinned: bool) -> None:
        """Has the adapter keep its slot, from the moment that there is one; or lose it to others again."""
        adapter.pinned = pinned
        self._idle.pop(adapter, None)
        if pinned and not adapter.slot:
            self._place(adapter)
        elif adapter.slot and not adapter.rows and not pinned:
            self._idle[adapter] = None

    def _give_back(self, adapter: ServedAdapter) -> None:
        self._idle.pop(adapter, None)
        if adapter.slot:
            self._free.append(adapter.slot)
            adapter.slot = 0

    # --- of ranks that share the model ------------------------------------------------------------------------

    def lead(self, tell: Tell) -> None:
        table = self._shared_table()
        self._tell = lambda slot, adapter: tell(slot, table.encode(adapter))

    def follow(self) -> Tell:
        table = self._shared_table()
        return lambda slot, data: self._table.place(table.decode(data), slot)

    def _shared_table(self) -> SharesAdapters:
        if isinstance(self._table, SharesAdapters):
            return self._table
        raise SettingsError(
            f"adapters of a {type(self._table).__name__} do not go with several ranks: they cannot be sent to the "
            "others (SharesAdapters); leave them out, or name one device in --devices"
        )

    # --- rows -------------------------------------------------------------------------------------------------

    def correct(self) -> None:
        if self._model is not None:
            self._tower = self._model.correct(self._table, self._rows)

    def rows(self, slots: NDArray[np.int64], device: torch.device) -> AdapterRows | None:
        return rows_by_slot(slots, device)

    def around(self, runner: Runner) -> AdaptedRunner:
        return AdaptedRunner(runner, self._rows)

    def adapt_rows(self, slots: NDArray[np.int64] | None, device: torch.device) -> None:
        """Has projections correct rows of which these are the slots, 0 for none, until it is called again."""
        self._rows.rows = None if slots is None else rows_by_slot(slots, device)

    # --- changes ----------------------------------------------------------------------------------------------

    def change(self, change: AdapterChange) -> None:
        """Begins a change; its id is in `done` once it is made, or in `rejected`. RequestError if it cannot begin."""
        if change.name in self._loads:
            self._later.setdefault(change.name, []).append(change)
        elif change.action == "unload":
            self._unload(change)
        else:
            self._check(change)
            if not self._is_served(change):
                self._begin(change)

    def load_initial(self) -> None:
        """Loads those that are to be served from the start; SettingsError for one that cannot be."""
        for name, source in self._table.initial().items():
            try:
                self.load(AdapterChange(id="", action="load", name=name, source=source))
            except RequestError as error:
                raise SettingsError(error.message) from error
        self.done.clear()

    def load(self, change: AdapterChange) -> None:
        """Loads an adapter at once, at the start."""
        self._check(change)
        self._serve(change, self._table.load(change.name, change.source))

    def collect(self) -> None:
        """Serves those that have been read, and makes the changes that were asked for meanwhile."""
        self._read.clear()
        for load in [load for load in self._loads.values() if load.read.done()]:
            name = load.change.name
            del self._loads[name]
            self._try(load.change, lambda load=load: self._serve(load.change, load.read.result()))  # type: ignore[misc]
            for change in self._later.pop(name, ()):
                self._try(change, lambda change=change: self.change(change))  # type: ignore[misc]

    def wait(self, seconds: float) -> None:
        """Sleeps until an adapter has been read, or that long."""
        self._read.wait(seconds)

    def close(self) -> None:
        self.wake = None
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _try(self, change: AdapterChange, make: Callable[[], None]) -> None:
        try:
            make()
        except RequestError as error:
            self.rejected.append((change.id, error))
        except Exception as error:  # a plugin's, about this adapter: the others and the engine go on
            log.exception("adapter %s could not be loaded", change.name)
            what = f"the adapter {change.name!r} could not be loaded: {cause(error)}"
            self.rejected.append((change.id, RequestError(what, status=500)))

    def _check(self, change: AdapterChange) -> None:
        """RequestError where the name, or a slot to keep, cannot be had."""
        known = self._by_name.get(change.name)
        if known is not None and not change.replace and known.source != change.source:
            raise RequestError(
                f"the adapter {change.name!r} is loaded from another place; unload it first, or replace it in place",
                status=409,
            )
        if change.pinned and 1 + sum(a.pinned for a in self._by_name.values() if a is not known) >= self.slots:
            raise RequestError(
                f"pinning {change.name!r} would leave no slot to adapters that are not pinned; raise --max-num-loras, "
                f"which is {self.slots}",
                status=409,
            )

    def _is_served(self, change: AdapterChange) -> bool:
        """Whether it is served already, from the same source; then it is pinned, or not any more, if that is said."""
        known = self._by_name.get(change.name)
        if known is None or change.replace:
            return False
        if change.pinned is not None:
            self._pin(known, pinned=change.pinned)
        self.done.append(change.id)
        return True

    def _begin(self, change: AdapterChange) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="maxserve-adapter")
        read = self._thread.submit(self._table.load, change.name, change.source)
        self._loads[change.name] = Load(change, read)
        read.add_done_callback(self._wake)

    def _wake(self, read: Future[Any]) -> None:
        if not read.cancelled():
            self._read.set()
            if self.wake is not None:
                self.wake()

    def _serve(self, change: AdapterChange, loaded: Any) -> None:
        """Serves what was read; where a pinned one's slot went meanwhile, it is not."""
        self._check(change)
        known = self._by_name.get(change.name)
        self._generations += 1
        adapter = ServedAdapter(self, change, self._generations, loaded)
        self._pin(adapter, pinned=adapter.pinned)  # where it cannot be placed, nothing has changed
        self._by_name[change.name] = adapter
        if known is not None:
            self._retire(known, "")
            self._pin(adapter, pinned=adapter.pinned)  # in the slot that is free now, if there was none
        log.info("adapter %s loaded, generation %d", change.name, adapter.generation)
        self.done.append(change.id)

    def _unload(self, change: AdapterChange) -> None:
        known = self.named(change.name)
        if known is None:
            raise RequestError("the name of the adapter is missing", param="lora_name")
        if known.requests and not change.wait:
            raise RequestError(f"the adapter {change.name!r} is in use by {known.requests} requests", status=409)
        del self._by_name[change.name]
        self._retire(known, change.id)

    def _retire(self, adapter: ServedAdapter, change: str) -> None:
        """No new request gets it; it goes when its last one has ended."""
        self._pin(adapter, pinned=False)
        self._retired.append((adapter, change))
        self.settle()

    def end(self, adapter: ServedAdapter) -> None:
        """A request with this adapter is over."""
        adapter.requests -= 1
        if self._retired and not adapter.requests:
            self.settle()

    def settle(self) -> None:
        """Lets go of those that were unloaded or replaced and are not in use any more."""
        over = [(adapter, id) for adapter, id in self._retired if not adapter.requests]
        self._retired = [(adapter, id) for adapter, id in self._retired if adapter.requests]
        for adapter, id in over:
            self._give_back(adapter)
            log.info("adapter %s unloaded, generation %d", adapter.name, adapter.generation)
            self.done += [id] if id else []
