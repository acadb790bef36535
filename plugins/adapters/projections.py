"""What of a model adapters can correct: its projections, where checkpoints have them, and their corrections."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor, nn

from maxserve.interfaces.adapter import Location, Projection, ProjectionKind
from maxserve.interfaces.linear import ExpertLayer
from maxserve.loading import Adaptable, Embedding, Linear, Parameters, Part, locator
from maxserve.plugins.adapters.bound import (
    BoundCorrection,
    BoundHeadCorrection,
    BoundLatentCorrection,
    BoundTowerCorrection,
    StepRows,
    TowerRows,
)
from maxserve.plugins.adapters.shares import shared

if TYPE_CHECKING:
    from maxserve.interfaces.adapter import AdapterTable
    from maxserve.interfaces.architecture import WeightMap
    from maxserve.loading import Target

_HEADS = frozenset({"lm_head"})  # of models that do not name them
_BOUND: Mapping[str, Callable[[Any, StepRows], BoundCorrection | BoundLatentCorrection]] = {
    "head": BoundHeadCorrection,
    "latent": BoundLatentCorrection,
}


@runtime_checkable
class NamesHeads(Protocol):
    """A model whose projections of that name make its logits; in others it is lm_head."""

    @property
    def heads(self) -> frozenset[str]: ...


@runtime_checkable
class HasTower(Protocol):
    """A model that computes images with modules of torch's beside its own, and sets `tower_rows` while it does."""

    tower: nn.Module
    tower_rows: TowerRows


class TowerLinear(Adaptable):
    """A projection that is torch's own, in a tower."""

    def __init__(self, module: nn.Linear) -> None:
        self.inputs, self.outputs = module.in_features, module.out_features
        self.parts = {"": Part(self.outputs)}
        self._module = module

    def correct(self, bound: BoundCorrection) -> None:
        """Has it corrected from now on."""

        def hook(module: nn.Module, args: Any, out: Any) -> Tensor:
            return bound(args[0], out)

        self._module.register_forward_hook(hook)


class AdaptedModel:
    """A model, and its `projections` of these kinds by name."""

    def __init__(self, model: nn.Module, kinds: Collection[ProjectionKind]) -> None:
        self._model, self._kinds = model, kinds
        self.projections = {each.name: each for each, _ in _projections(model, kinds)}

    def locator(self, weight_map: WeightMap) -> Callable[[str], tuple[Location, ...]]:
        """What finds projections by the names that their weights have in checkpoints."""
        return locator_of(self.projections, weight_map)

    def correct(self, table: AdapterTable, rows: StepRows) -> frozenset[str]:
        """Has the table correct the projections, before layers are compiled; returns those of the tower."""
        towers = []
        for projection, module in _projections(self._model, self._kinds):
            correction: Any = table.correction(projection)
            if isinstance(module, TowerLinear):
                if correction is not None and isinstance(self._model, HasTower):
                    module.correct(BoundTowerCorrection(correction, self._model.tower_rows))
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
            kind = "head" if name in heads else module.adapter_kind
            projection = shared(_projection(name, module, kind, tables), module)
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
