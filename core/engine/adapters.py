"""The adapters of a model: which are served, which have slots, and the way of a step's slots to the projections."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from maxserve.core.interfaces.adapter import AdapterContext, Location, Projection, ProjectionKind, SaysChanges
from maxserve.core.interfaces.adapter_source import AdapterSourceContext, adapter_sources
from maxserve.core.interfaces.errors import RequestError, SettingsError
from maxserve.core.interfaces.inputs import AdapterRows
from maxserve.core.interfaces.linear import ExpertLayer
from maxserve.core.interfaces.request import AdapterChange
from maxserve.core.loading.corrections import (
    BoundCorrection,
    BoundHeadCorrection,
    BoundLatentCorrection,
    BoundTowerCorrection,
    StepRows,
)
from maxserve.core.loading.linear import Adaptable, Embedding, HasTower, Linear, NamesHeads, TowerLinear
from maxserve.core.loading.weight_plan import Parameters, Target, locator
from maxserve.core.registry.entries import cause

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from maxserve.core.interfaces.adapter import AdapterTable
    from maxserve.core.interfaces.architecture import WeightMap
    from maxserve.core.interfaces.inputs import StepInputs
    from maxserve.core.interfaces.runner import ModelOutput, Runner
    from maxserve.core.registry.protocol import Host

log = logging.getLogger("maxserve.engine")

_HEADS = frozenset({"lm_head"})  # of models that do not name them
_BOUND: Mapping[str, Callable[[Any, StepRows], BoundCorrection | BoundLatentCorrection]] = {
    "head": BoundHeadCorrection,
    "latent": BoundLatentCorrection,
}
PATIENCE = 2.0  # seconds after which a request that waits for a slot goes before later ones that have theirs


class ServedAdapter:
    """One loaded adapter, a generation of its name. `slot` 0: it has none; `rows` counts those who compute with it."""

    __slots__ = ("generation", "images", "loaded", "name", "pinned", "pool", "requests", "rows", "slot", "source")

    def __init__(self, pool: Adapters, change: AdapterChange, generation: int, loaded: Any) -> None:
        self.pool, self.name, self.generation, self.loaded = pool, change.name, generation, loaded
        self.source, self.pinned = change.source, bool(change.pinned)
        self.images = pool.changes_images(loaded)
        self.slot = self.rows = self.requests = 0


@dataclass(frozen=True, slots=True)
class Load:
    """An adapter that is being read in a thread."""

    change: AdapterChange
    read: Future[Any]


class Adapters:
    """The adapters that requests may name, and the slots that those who run have theirs in.

    An adapter keeps its slot while a sequence with a row uses it, and afterwards until the slot is needed: the one that
    was used last goes last. Who asks for an adapter has that generation of it to the end.

    Adapters are read in a thread, one after the other. `wake` is called there when one has been read, which `collect`
    then serves. Changes of one name are made in the order in which they were asked for.
    """

    def __init__(self, table: AdapterTable | None, rows: StepRows | None = None) -> None:
        self.step_rows = rows or StepRows()
        self.tower: frozenset[str] = frozenset()  # projections that compute images
        self._table = table
        self._by_name: dict[str, ServedAdapter] = {}
        self._free = list(range(table.slots, 0, -1)) if table else []
        self._idle: dict[ServedAdapter, None] = {}  # that have a slot which no row uses, the longest unused first
        self._retired: list[tuple[ServedAdapter, str]] = []  # and the change that waits for its last request
        self._generations = 0
        self._thread: ThreadPoolExecutor | None = None
        self._loads: dict[str, Load] = {}  # by name
        self._later: dict[str, list[AdapterChange]] = {}  # by name: what was asked for while it was being read
        self._read = threading.Event()
        self.wake: Callable[[], None] | None = None
        self.done: list[str] = []  # changes that are made and not reported yet
        self.rejected: list[tuple[str, RequestError]] = []  # likewise, that cannot be made though they were begun

    @property
    def serves(self) -> bool:
        return self._table is not None

    @property
    def slots(self) -> int:
        return 0 if self._table is None else self._table.slots

    @property
    def memory(self) -> int:
        return 0 if self._table is None else self._table.memory()

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
        return bool(self.tower.intersection(table.changes(loaded)) if isinstance(table, SaysChanges) else self.tower)

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
        assert self._table is not None, "without a table there are no adapters"
        self._table.place(adapter.loaded, self._free[-1])  # which stays free where this fails
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

    def adapt_rows(self, slots: NDArray[np.int64] | None, device: torch.device) -> None:
        """Has projections correct rows of which these are the slots, 0 for none, until it is called again."""
        self.step_rows.rows = None if slots is None else rows_by_slot(slots, device)

    # --- changes ----------------------------------------------------------------------------------------------

    def change(self, change: AdapterChange) -> None:
        """Begins a change; its id is in `done` once it is made, or in `rejected`. RequestError if it cannot begin."""
        table = self._serving()
        if change.name in self._loads:
            self._later.setdefault(change.name, []).append(change)
        elif change.action == "unload":
            self._unload(change)
        else:
            self._check(change, table)
            if not self._is_served(change):
                self._begin(change, table)

    def load_initial(self) -> None:
        """Loads those that are to be served from the start; SettingsError for one that cannot be."""
        table = self._table
        for name, source in ({} if table is None else table.initial()).items():
            try:
                self.load(AdapterChange(id="", action="load", name=name, source=source))
            except RequestError as error:
                raise SettingsError(error.message) from error
        self.done.clear()

    def load(self, change: AdapterChange) -> None:
        """Loads an adapter at once, at the start."""
        table = self._serving()
        self._check(change, table)
        self._serve(change, table.load(change.name, change.source))

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

    def _serving(self) -> AdapterTable:
        if self._table is None:
            raise RequestError("this server serves no adapters; start it with --enable-lora")
        return self._table

    def _try(self, change: AdapterChange, make: Callable[[], None]) -> None:
        try:
            make()
        except RequestError as error:
            self.rejected.append((change.id, error))
        except Exception as error:  # a plugin's, about this adapter: the others and the engine go on
            log.exception("adapter %s could not be loaded", change.name)
            what = f"the adapter {change.name!r} could not be loaded: {cause(error)}"
            self.rejected.append((change.id, RequestError(what, status=500)))

    def _check(self, change: AdapterChange, table: AdapterTable) -> None:
        """RequestError where the name, or a slot to keep, cannot be had."""
        known = self._by_name.get(change.name)
        if known is not None and not change.replace and known.source != change.source:
            raise RequestError(
                f"the adapter {change.name!r} is loaded from another place; unload it first, or replace it in place",
                status=409,
            )
        if change.pinned and 1 + sum(a.pinned for a in self._by_name.values() if a is not known) >= table.slots:
            raise RequestError(
                f"pinning {change.name!r} would leave no slot to adapters that are not pinned; raise --max-num-loras, "
                f"which is {table.slots}",
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

    def _begin(self, change: AdapterChange, table: AdapterTable) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="maxserve-adapter")
        read = self._thread.submit(table.load, change.name, change.source)
        self._loads[change.name] = Load(change, read)
        read.add_done_callback(self._wake)

    def _wake(self, read: Future[Any]) -> None:
        if not read.cancelled():
            self._read.set()
            if self.wake is not None:
                self.wake()

    def _serve(self, change: AdapterChange, loaded: Any) -> None:
        """Serves what was read; where a pinned one's slot went meanwhile, it is not."""
        self._check(change, self._serving())
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


class AdapterRunner:
    """A Runner that sets the rows of each step while another one runs it."""

    def __init__(self, runner: Runner, step: StepRows) -> None:
        self._runner, self._step = runner, step

    def run(self, inputs: StepInputs) -> ModelOutput:
        self._step.rows, self._step.head = inputs.adapter_rows, inputs.logit_adapter_rows
        try:
            return self._runner.run(inputs)
        finally:
            self._step.rows = self._step.head = None  # who calls parts of the model beside steps has no adapter

    def logits(self, hidden: Tensor, slots: NDArray[np.int64] | None = None) -> Tensor:
        """Those of further rows, whose adapters are in these slots."""
        self._step.head = None if slots is None else rows_by_slot(slots, hidden.device)
        try:
            return self._runner.logits(hidden)
        finally:
            self._step.head = None


def adapter_rows(slots: NDArray[np.int64], counts: NDArray[np.int64], device: torch.device) -> AdapterRows | None:
    """The rows by adapter, of sequences with these slots and so many rows each; None where none has an adapter."""
    return rows_by_slot(np.repeat(slots, counts), device)


def rows_by_slot(rows: NDArray[np.int64], device: torch.device) -> AdapterRows | None:
    """The rows by adapter, of rows with these slots; None where none has an adapter."""
    if not rows.any():
        return None
    order = np.argsort(rows, kind="stable")[len(rows) - np.count_nonzero(rows) :]
    found, starts = np.unique(rows[order], return_index=True)
    groups = np.stack([found, starts, np.append(starts[1:], len(order))], axis=1)

    def moved(array: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    return AdapterRows(adapter_slots=moved(rows), order=moved(order), groups=np.ascontiguousarray(groups))


@dataclass(frozen=True, slots=True)
class BuiltAdapters:
    """The table that serves, and the kinds of projections that it can adapt."""

    table: AdapterTable
    kinds: Collection[ProjectionKind]


def build_adapters(
    host: Host,
    sections: Mapping[type[Any], Any],
    model: nn.Module,
    weight_map: WeightMap,
    compute: torch.dtype,
    rows: torch.dtype,
    device: torch.device,
    path: str,
) -> BuiltAdapters | None:
    """The table of the kind of adapters that is to be served, if one is; the model has no weights yet.

    `path` is the folder with its config.
    """

    def find(name: str) -> str | None:
        sources = adapter_sources(host, AdapterSourceContext(sections=sections, path=path, of_operator=True))
        return next((found for source in sources if (found := source.find(name)) is not None), None)

    tables = []
    for entry in host.adapters:
        projections = {each.name: each for each, _ in _projections(model, entry.component.kinds)}
        context = AdapterContext(
            sections=sections,
            compute=compute,
            rows=rows,
            device=device,
            projections=projections,
            locate=locator_of(projections, weight_map),
            find=find,
        )
        tables.append((entry, host.build(entry, context)))
    serving = [(entry, table) for entry, table in tables if table.slots]
    if len(serving) > 1:
        titles = " and ".join(entry.title for entry, _ in serving)
        raise SettingsError(f"{titles} both have adapters to serve, and a model takes those of one; leave one out")
    return BuiltAdapters(serving[0][1], serving[0][0].component.kinds) if serving else None


def adapt(model: nn.Module, built: BuiltAdapters | None, rows: StepRows) -> frozenset[str]:
    """Has the adapters correct the model's projections, before its layers are compiled; returns those of its tower."""
    if built is None:
        return frozenset()
    towers = []
    for projection, module in _projections(model, built.kinds):
        correction: Any = built.table.correction(projection)
        if isinstance(module, TowerLinear):
            if correction is not None and isinstance(model, HasTower):
                module.correct(BoundTowerCorrection(correction, model.tower_rows))
                towers.append(projection.name)
            continue
        bound = _BOUND.get(projection.kind, BoundCorrection)
        module.correction = None if correction is None else bound(correction, rows)
    return frozenset(towers)


def _projections(model: nn.Module, kinds: Collection[ProjectionKind]) -> Iterator[tuple[Projection, Adaptable]]:
    """What of the model can be adapted by tables that adapt these kinds."""
    heads = model.heads if isinstance(model, NamesHeads) else _HEADS
    tables: dict[int, str] = {}  # embeddings by what has their weight, which a head may have, too
    for name, module in model.named_modules():
        if isinstance(module, Embedding):
            tables[id(_storage(module))] = name
        if isinstance(module, Adaptable) and module.adaptable:
            projection = _projection(name, module, "head" if name in heads else module.adapter_kind, tables)
            if projection.kind in kinds:
                yield projection, module
    for name, module in model.tower.named_modules(prefix="tower") if isinstance(model, HasTower) else ():
        if type(module) is nn.Linear and "linear" in kinds:
            yield Projection(name=name, inputs=module.in_features, outputs=module.out_features), TowerLinear(module)


def _storage(module: Linear | Embedding) -> object:
    return module.weight if module.packed is None else module.packed


def _projection(name: str, module: Adaptable, kind: ProjectionKind, tables: Mapping[int, str]) -> Projection:
    parts = {part: sizes.size for part, sizes in module.parts.items() if part}
    inputs, outputs = module.inputs, module.outputs
    if kind == "embedding":  # its weight lies the other way round
        inputs, outputs = outputs, inputs
    tied = tables.get(id(_storage(module)), "") if kind == "head" and isinstance(module, Linear) else ""
    experts = module.experts if isinstance(module, ExpertLayer) else 1
    return Projection(name=name, inputs=inputs, outputs=outputs, parts=parts, kind=kind, tied=tied, experts=experts)


def locator_of(projections: Mapping[str, Projection], weight_map: WeightMap) -> Callable[[str], tuple[Location, ...]]:
    """What finds projections by the names that their weights have in checkpoints."""
    shapes = {f"{name}.weight": (each.outputs, each.inputs) for name, each in projections.items()}
    find = locator(Parameters(shapes=shapes, aliases={name: name for name in shapes}), weight_map)

    def locate(name: str) -> tuple[Location, ...]:
        found = [_location(target, projections, weight_map) for target in find(f"{name}.weight")]
        return tuple(each for each in found if each is not None)

    return locate


def _location(target: Target, projections: Mapping[str, Projection], weight_map: WeightMap) -> Location | None:
    """None where a checkpoint has a part by itself, or an expert, that the model does not have so."""
    name, part = target.param.removesuffix(".weight"), target.part
    projection = projections[name]
    if part and part not in projection.parts:  # it is called otherwise in checkpoints
        names = next(parts for parts in weight_map.fused.values() if part in parts)
        if len(names) != len(projection.parts):
            return None
        part = list(projection.parts)[names.index(part)]
    if target.entry is not None and target.entry >= projection.experts:
        return None
    return Location(projection=name, part=part, expert=target.entry, change=target.change)
